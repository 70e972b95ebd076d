"""The markers of a model's format: of reasoning, of tool calls, and tokens that are no text.

mlx_lm infers the format from the tokenizer and its template, and builds the machine that finds the
markers in text, however tokens cut the markers. Made once for each model. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_lm.generate import make_text_state_machine

from mlx_worker.engine.output.detokenizer import ByteDetokenizer, WindowDetokenizer
from mlx_worker.engine.output.token_bytes import token_bytes, trims_first_space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.output.detokenizer import Detokenizer

CONTENT: Final = "normal"
REASONING: Final = "reasoning"
CALL: Final = "tool"
"""mlx_lm's names of the states. Text in any other state belongs to the format and is not shown."""


class Markers:
    """Hold one model's format.

    `machine` is None for a model without markers: all its text is content. `starts` are the
    characters that a marker can begin with. `stripped` are the special tokens that mean nothing to
    the format, by id: "<s>" in ordinary tokens is text of the model. `added` has the text of each
    token beyond the ordinary vocabulary. `call_end` is "" where only the end of the answer ends a
    call. `words` are the texts of all markers. `end_tokens` are the model's own ends of answers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.parse_call = tokenizer.tool_parser
        self.call_end: str = tokenizer.tool_call_end or ""
        words = _marker_words(tokenizer)
        self.machine = make_text_state_machine(tokenizer) if words else None
        self.words = tuple(words)
        self.starts = frozenset(word[0] for word in words)
        self.end_tokens = frozenset(tokenizer.eos_token_ids)
        added = tokenizer.added_tokens_decoder
        self.added: dict[int, str] = {
            token: token_info.content for token, token_info in added.items()
        }
        self.stripped = frozenset(
            token
            for token, text in self.added.items()
            if added[token].special and not any(text in word for word in words)
        )
        self._bytes = token_bytes(tokenizer)
        self._trims = trims_first_space(tokenizer)

    def detokenizer(self, follows: Sequence[int] | None) -> Detokenizer:
        """Return a detokenizer for one answer.

        `follows` are the tokens of a raw prompt, which the answer continues: then the answer's
        first space is text. None: the answer stands by itself.
        """
        if self._bytes is None:
            return WindowDetokenizer(self.tokenizer, (follows or ())[-1:])
        return ByteDetokenizer(self._bytes, trims=self._trims and follows is None)

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token, also of a token that no answer shows."""
        if self._bytes is None:
            return str(self.tokenizer.decode([token])).encode()
        return self._bytes[token] if token < len(self._bytes) else b""

    def text_of(self, token: int) -> tuple[str, bytes]:
        """Return a token's text by itself, and the bytes that the token adds to an answer."""
        if self._bytes is None:
            text = str(self.tokenizer.decode([token]))
            data = text.encode()
        else:
            data = self._bytes[token] if token < len(self._bytes) else b""
            text = data.decode("utf-8", "replace")
        return text, b"" if token in self.stripped else data


def opening_state(tokenizer: Any, prompt: Sequence[int], *, continues: bool = False) -> str:
    """Return the state that a prompt leaves the model in.

    Only what follows the last end of a turn counts: a user's message may contain markers.
    `continues`: the prompt ends in the middle of an answer's content.
    """
    if tokenizer.response_initial_state is not None:
        return CONTENT if continues else str(tokenizer.response_initial_state)
    if not tokenizer.has_thinking:
        return CONTENT
    start = _last_turn(tokenizer, prompt)
    opened = tokenizer.rfind_think_start(prompt, start=start)
    return REASONING if opened > tokenizer.rfind_think_end(prompt, start=start) else CONTENT


def opening_states(tokenizer: Any) -> frozenset[str]:
    """Return all states that a prompt may leave the model in."""
    initial = tokenizer.response_initial_state
    return frozenset({CONTENT, REASONING} if initial is None else {CONTENT, str(initial)})


def has_thought(tokenizer: Any, prompt: Sequence[int]) -> bool:
    """Return True if a prompt closes the reasoning of its answer, as templates do to prevent it."""
    return bool(tokenizer.rfind_think_end(prompt, start=_last_turn(tokenizer, prompt)) >= 0)


def _last_turn(tokenizer: Any, prompt: Sequence[int]) -> int:
    """Return the place behind the last end of a turn."""
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
