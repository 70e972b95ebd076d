"""Token ids to the text a client sees.

Mlx_lm's streaming detokenizer keeps multi-byte characters whole across tokens; its text state
machine finds stop strings across tokens and holds back what may still become one, so that no part
of a stop string ever leaks. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_lm.generate import TextStateMachine

if TYPE_CHECKING:
    from collections.abc import Sequence


class TextStream:
    """The text of one sequence, released as soon as it is certain."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._detokenizer = tokenizer.detokenizer
        # A match leads to no state at all: the end.
        self._watch = (
            TextStateMachine({"normal": [(word, None) for word in stop]}).make_state()
            if stop
            else None
        )
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that this token released. Sets `stopped` at a stop string."""
        self._detokenizer.add_token(token)
        return self._release(self._detokenizer.last_segment)

    def finish(self) -> str:
        """The text still held back when the sequence ended by itself or by its length."""
        self._detokenizer.finalize()
        text = self._release(self._detokenizer.last_segment)
        if self._watch is not None and not self.stopped:
            self._watch, rest, _ = TextStateMachine.flush(self._watch)
            text += rest
        return text

    def _release(self, text: str) -> str:
        if self._watch is None or not text:
            return text
        self._watch, segments = TextStateMachine.split(self._watch, text)
        self.stopped = segments[-1][0] is None
        return "".join(piece for _, piece in segments)
