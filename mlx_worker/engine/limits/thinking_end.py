"""How a model's answers leave reasoning: the tokens that are forced at the end of a budget.

The template writes reasoning of earlier turns as the model was trained to write it, layout around
the marker included. So a short conversation is rendered, and the text between reasoning and content
is read. A template that does not show earlier reasoning leaves the marker alone. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_lm.generate import TextStateMachine

from mlx_worker.engine.output.markers import CONTENT, REASONING
from mlx_worker.engine.templates.chat_text import chat_text
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.engine.output.markers import Markers

_THOUGHT: Final = "probeOfReasoning"
_SAID: Final = "probeOfContent"


@dataclass(frozen=True, slots=True)
class ThinkingEnd:
    """Hold the tokens that lead from reasoning to content; the first `layout` are whitespace."""

    tokens: tuple[int, ...]
    layout: int
    layout_text: bytes

    def missing_after(self, recent: Sequence[int], text: bytes) -> tuple[int, ...]:
        """Return the tokens that are missing after `recent`, whose last has this text.

        A model may have written the beginning of its end, or the layout in front of the marker.
        """
        marker = self.tokens[self.layout :]
        for written in range(len(marker) - 1, 0, -1):
            if tuple(recent[-written:]) == marker[:written]:
                return marker[written:]
        return marker if text.endswith(self.layout_text) else self.tokens


def thinking_end(tokenizer: Any, markers: Markers) -> ThinkingEnd | None:
    """Return how this model's answers leave reasoning; None where no marker tells."""
    if markers.machine is None:
        return None
    for text in _candidates(tokenizer, markers):
        tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
        layout = _layout_tokens(markers, tokens)
        written = b"".join(map(markers.bytes_of, tokens))
        ends = not tokenizer.eos_token_ids.isdisjoint(tokens)
        if written == text.encode() and not ends and _state_after(markers, text) != REASONING:
            before = b"".join(map(markers.bytes_of, tokens[:layout]))
            return ThinkingEnd(tokens, layout, before)
    return None


def _candidates(tokenizer: Any, markers: Markers) -> Iterator[str]:
    """Yield texts that may lead out of reasoning, the best first."""
    shown = _shown_between(tokenizer)
    for length in range(1, len(shown) + 1):
        if _state_after(markers, shown[:length]) == CONTENT:
            yield shown[:length]
            break
    if tokenizer.think_end:
        yield tokenizer.think_end
    for marker, _ in tokenizer.response_transitions.get(REASONING, ()):
        yield marker


def _shown_between(tokenizer: Any) -> str:
    """Return what the template writes between reasoning and content; "" where that is not shown."""
    turn = {"role": "assistant", "content": _SAID, "reasoning_content": _THOUGHT}
    try:
        text = chat_text(tokenizer, [{"role": "user", "content": "hello"}, turn], {})
    except InvalidRequest:
        return ""
    _, thought, after = text.partition(_THOUGHT)
    between, said, _ = after.partition(_SAID)
    return between if thought and said else ""


def _state_after(markers: Markers, text: str) -> str:
    """Return the state that a text in the middle of reasoning leads to."""
    assert markers.machine is not None
    (state, *_), _ = TextStateMachine.split(markers.machine.make_state(REASONING), text)
    return str(state)


def _layout_tokens(markers: Markers, tokens: Sequence[int]) -> int:
    """Return how many tokens at the beginning are whitespace."""
    texts = (markers.bytes_of(token) for token in tokens)
    return next((at for at, text in enumerate(texts) if not text.isspace()), 0)
