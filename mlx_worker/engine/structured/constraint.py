"""What one row may say next, by its grammar: llguidance's matcher, a token at a time.

Fed with the tokens of the answer and nothing else, so a replay leaves it where it was. The grammar
covers the whole answer, reasoning and calls included. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.engine.structured.refusals import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llguidance import LLMatcher

ALLOWED: Final = b"\xc8"
"""What a matcher writes for a token that may follow; 0 is for one that may not."""


class Constraint:
    """The grammar of one answer, and how far it has come."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._begun = False

    @property
    def complete(self) -> bool:
        """Nothing but the end may follow."""
        return self._matcher.is_stopped() and not self.problem

    @property
    def problem(self) -> str:
        """Why it cannot go on, e.g. a limit on its work; "" while it can."""
        fault = self._matcher.get_error()
        return in_words(fault) if fault else ""

    def replay(self, said: Sequence[int]) -> None:
        """Go on after what a former child said."""
        self._matcher.consume_tokens(list(said))

    def next_after(self, token: int, width: int) -> bytes:
        """A byte a token of the vocabulary, 0 for those that may not come after this one.

        The first token that is told is the prompt's last, and not of the answer.
        """
        if self._begun:
            self._matcher.consume_token(token)
            if self._matcher.is_stopped():
                return ALLOWED * width  # the row is leaving: what is drawn now is never heard
        self._begun = True
        told = self._matcher.compute_logit_bias()
        # Models have more rows in their heads than their tokenizers have tokens, or fewer.
        return told if len(told) == width else told[:width].ljust(width, b"\0")
