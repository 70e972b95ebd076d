"""Drop lines at the head of a system prompt that clients change with every request.

Some coding agents begin their system prompt with a line of accounting. While such a line is in a
prompt, no later prompt begins alike, so nothing of them is ever found in the prompt cache. Which
lines are dropped is a rule of the configuration.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_ENDS_OF_LINES = "\r\n"


def drop_head_lines(
    messages: list[dict[str, Any]], patterns: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """Return the messages without lines that fit a pattern, and the number of these lines.

    Only the first lines of the system messages that a conversation begins with are dropped, and
    the empty lines behind them. A message of which nothing is left is dropped too.
    """
    kept: list[dict[str, Any]] = []
    dropped = 0
    for at, message in enumerate(messages):
        text = message["content"]
        if message["role"] != "system" or not isinstance(text, str):
            return [*kept, *messages[at:]], dropped
        begin, lines = _end_of_dropped(text, patterns)
        dropped += lines
        if not lines:
            kept.append(message)
        elif begin < len(text):
            kept.append(message | {"content": text[begin:]})
    return kept, dropped


def without_head_lines(system_prompt: str, patterns: Sequence[str]) -> str:
    """Return a system prompt without the lines at its head that fit a pattern."""
    begin, _ = _end_of_dropped(system_prompt, patterns)
    return system_prompt[begin:]


def _end_of_dropped(text: str, patterns: Sequence[str]) -> tuple[int, int]:
    """Return where the rest of a text begins, and how many lines before it are dropped."""
    begin = lines = 0
    while any(_fits(text, begin, pattern) for pattern in patterns):
        end = text.find("\n", begin)
        begin = len(text) if end < 0 else end + 1
        lines += 1
        while begin < len(text) and text[begin] in _ENDS_OF_LINES:
            begin += 1
    return begin, lines


def _fits(text: str, begin: int, pattern: str) -> bool:
    """Return True if the line that begins there fits: a pattern ends with `*`, or is the line."""
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1], begin)
    end = begin + len(pattern)
    return text.startswith(pattern, begin) and text[end : end + 1] in ("", *_ENDS_OF_LINES)
