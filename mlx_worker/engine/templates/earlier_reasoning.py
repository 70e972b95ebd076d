"""The reasoning of earlier turns, under the name that the chat template reads.

Servers and clients name the same text differently: `reasoning_content`, `reasoning`, `thinking`
(gpt-oss, Ollama), OpenRouter's `reasoning_details`, LiteLLM's `thinking_blocks`. A turn is brought
to one name while the conversation is fitted to the template, and then to the template's own.
[child]
"""

from __future__ import annotations

from typing import Any, Final

Turn = dict[str, Any]

NEUTRAL: Final = "reasoning_content"
NAMES: Final = (NEUTRAL, "reasoning", "thinking")
"""Keys that hold a turn's reasoning as one text, the first that holds some first."""

PARAGRAPH: Final = "\n\n"


def with_neutral_name(turn: Turn) -> Turn:
    """Return an assistant's turn whose reasoning, if any, is in `NEUTRAL` alone."""
    if turn["role"] != "assistant" or not _may_have_reasoning(turn):
        return turn
    text = _reasoning_of(turn)
    if text:
        return {key: value for key, value in turn.items() if key not in NAMES} | {NEUTRAL: text}
    # A template fails if it adds a value that is no text to text.
    return {key: value for key, value in turn.items() if key not in NAMES or isinstance(value, str)}


def with_name(turn: Turn, name: str, *, beside_words: bool) -> Turn:
    """Return a turn whose reasoning has the template's `name` for it.

    `beside_words` False: the template refuses words of the model beside the reasoning that led to
    a call; both are then one text of reasoning, for the words too came before the call.
    """
    if turn["role"] != "assistant" or not (text := turn.get(NEUTRAL)):
        return turn
    named = {key: value for key, value in turn.items() if key != NEUTRAL} | {name: text}
    if not beside_words and turn.get("tool_calls") and (words := turn.get("content")):
        named |= {name: PARAGRAPH.join((text, words)), "content": ""}
    return named


def _may_have_reasoning(turn: Turn) -> bool:
    return any(key in turn for key in (*NAMES, "reasoning_details", "thinking_blocks"))


def _reasoning_of(turn: Turn) -> str:
    for name in NAMES:
        if isinstance(text := turn.get(name), str) and text:
            return text
    details = turn.get("reasoning_details")
    return (
        _joined(details, "text")
        or _joined(details, "summary")
        or _joined(turn.get("thinking_blocks"), "thinking")
    )


def _joined(parts: Any, key: str) -> str:
    """Return the texts under a key of each part; encrypted parts have none."""
    if not isinstance(parts, list):
        return ""
    texts = [part.get(key) for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
