"""Which tokens one row may generate next, by its grammar: llguidance's matcher.

The matcher gets the tokens of the answer and nothing else, so that a replay restores its state. The
grammar covers the whole answer, reasoning and calls included. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.engine.structured.refusals import explain_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher

ALLOWED: Final = b"\xc8"
"""The byte that a matcher writes for a token that may follow; 0: the token may not follow."""


class Constraint:
    """Hold the grammar of one answer and its state."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._begun = False

    @property
    def complete(self) -> bool:
        """True if nothing but the end may follow."""
        return self._matcher.is_stopped() and not self.problem

    @property
    def problem(self) -> str:
        """Return why no token can follow, e.g. a limit of llguidance; "" while one can."""
        fault = self._matcher.get_error()
        return explain_fault(fault) if fault else ""

    def replay(self, tokens: Sequence[int]) -> None:
        """Continue after the tokens that a former process generated."""
        self._matcher.consume_tokens(list(tokens))

    def next_after(self, token: int, width: int) -> bytes:
        """Return a byte for each token of the vocabulary, 0 for tokens that may not follow `token`.

        The first `token` is the prompt's last, which is no part of the answer.
        """
        if self._begun:
            self._matcher.consume_token(token)
            if self._matcher.is_stopped():
                return ALLOWED * width  # the row is leaving: its next token is dropped
        self._begun = True
        allowed = self._matcher.compute_logit_bias()
        # A model may have more logits than its tokenizer has tokens, or fewer.
        return allowed if len(allowed) == width else allowed[:width].ljust(width, b"\0")
