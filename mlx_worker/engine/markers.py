"""How a model marks what it says: where it reasons, where it calls tools, what is no text at all.

mlx_lm knows the formats (it infers them from the tokenizer and its template) and builds the machine
that finds their markers in text, however tokens cut them. Made once a model. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_lm.generate import make_text_state_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTENT: Final = "normal"
REASONING: Final = "reasoning"
CALL: Final = "tool"
"""mlx_lm's names of the states. Text in any other state is the format's own and is not shown."""


class Markers:
    """One model's format.

    `machine` is None where it has none: all it says is content. `starts` are the characters that
    a marker can begin with. `stripped` are the special tokens
    that mean nothing to the format; by id, because a model that writes "<s>" in ordinary tokens
    means it. `call_end` is "" where only the end of the answer ends a call.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.parse_call = tokenizer.tool_parser
        self.call_end: str = tokenizer.tool_call_end or ""
        words = _marker_words(tokenizer)
        self.machine = make_text_state_machine(tokenizer) if words else None
        self.starts = frozenset(word[0] for word in words)
        self.stripped = frozenset(
            token
            for token, text in _special_tokens(tokenizer).items()
            if not any(text in word for word in words)
        )


def opening_state(tokenizer: Any, prompt: Sequence[int]) -> str:
    """The state that a prompt leaves the model in.

    Only what follows the last end of a turn is looked at: a user may well speak of markers.
    """
    if tokenizer.response_initial_state is not None:
        return str(tokenizer.response_initial_state)
    if not tokenizer.has_thinking:
        return CONTENT
    start = _last_turn(tokenizer, prompt)
    opened = tokenizer.rfind_think_start(prompt, start=start)
    return REASONING if opened > tokenizer.rfind_think_end(prompt, start=start) else CONTENT


def has_thought(tokenizer: Any, prompt: Sequence[int]) -> bool:
    """Does a prompt close the reasoning of its answer itself, as templates do to have none?"""
    return bool(tokenizer.rfind_think_end(prompt, start=_last_turn(tokenizer, prompt)) >= 0)


def _last_turn(tokenizer: Any, prompt: Sequence[int]) -> int:
    """Where what follows the last end of a turn begins."""
    ends = tokenizer.eos_token_ids
    return next((at for at in reversed(range(len(prompt))) if prompt[at] in ends), -1) + 1


def _marker_words(tokenizer: Any) -> list[str]:
    edges = [edge for edges in tokenizer.response_transitions.values() for edge in edges]
    words = [
        tokenizer.think_start,
        tokenizer.think_end,
        tokenizer.tool_call_start,
        tokenizer.tool_call_end,
        *tokenizer.structural_markers,
        *(word for word, _ in edges),
    ]
    return [word for word in words if word]


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    added = tokenizer.added_tokens_decoder.items()
    return {token: it.content for token, it in added if it.special}
