"""The budget of reasoning of one answer: once it is spent, the end of reasoning is forced.

The budget gets the tokens of the answer and nothing else, and finds markers as the answer's text
stream does. So a replay forces the same tokens at the same places. While a row is not at the edge
of its budget, no step waits for a token. [child]
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from mlx_lm.generate import TextStateMachine

from mlx_worker.engine.output.markers import CALL, REASONING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.limits.thinking_end import ThinkingEnd
    from mlx_worker.engine.output.markers import Markers
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.wire.request import ChatRequest

MOST_LATE: Final = 3
"""Tokens by which the end waits for the end of a character: it has at most four bytes."""


class ThinkingBudget:
    """Decide which tokens of one answer are forced.

    `not_before` is a number of tokens: the end is not forced before the answer has them. Reasoning
    that begins in the answer has at least one token, whatever is left of the budget: the row then
    waits for no token while it writes content.
    """

    def __init__(
        self,
        request: ChatRequest,
        prompt: Prompt,
        markers: Markers,
        end: ThinkingEnd,
        *,
        not_before: int = 0,
    ) -> None:
        assert request.thinking_budget is not None
        assert markers.machine is not None
        self._markers = markers
        self._end = end
        self._limit = request.thinking_budget
        self._not_before = not_before
        self._detokenizer = markers.detokenizer(
            None if request.opening == "turn" else prompt.tokens
        )
        self._machine = markers.machine.make_state(prompt.state)
        self._recent = deque(prompt.tokens[-1:], maxlen=len(end.tokens))
        self._taken = len(prompt.tokens)
        self._forced: deque[int] = deque()
        self._answered = 0
        self._reasoned = 0
        self._late = 0
        if prompt.state == REASONING:
            self._force_end_if_spent()

    def catch_up(self, tokens: Sequence[int]) -> bool:
        """Take what is new of the tokens of prompt and answer, of which the last is missing.

        Return True if that one has to be added now: it may be the last of the budget.
        """
        for token in tokens[self._taken :]:
            self.add(token)
        is_behind = self._taken == len(tokens)
        return is_behind and self._in_reasoning and self._is_spent(ahead=1)

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        was_reasoning = self._in_reasoning
        self._taken += 1
        self._answered += 1
        self._reasoned += was_reasoning
        self._recent.append(token)
        self._read(token)
        if self._forced:
            self._forced.popleft()
        elif was_reasoning and self._in_reasoning:
            self._force_end_if_spent()

    def take_forced(self) -> int | None:
        """Return the token that is to follow all others; None: the model chooses."""
        if not self._forced:
            return None
        token = self._forced[0]
        self.add(token)
        return token

    # --- inside ---

    @property
    def _in_reasoning(self) -> bool:
        return bool(self._machine[0] == REASONING)

    def _is_spent(self, *, ahead: int = 0) -> bool:
        """Return True if the budget is spent after this number of further tokens."""
        reasoned, answered = self._reasoned + ahead, self._answered + ahead
        return reasoned >= self._limit and answered >= self._not_before

    def _force_end_if_spent(self) -> None:
        if not self._is_spent():
            return
        if self._detokenizer.is_inside_character and self._late < MOST_LATE:
            self._late += 1
            return
        self._late = 0
        text = self._markers.bytes_of(self._recent[-1])
        self._forced.extend(self._end.missing_after(list(self._recent), text))

    def _read(self, token: int) -> None:
        """Follow the markers, as the text stream of the answer does."""
        if token in self._markers.stripped and self._machine[0] != CALL:
            return
        text = self._detokenizer.add(token)
        *_, held_back = self._machine
        if text and (held_back or not self._markers.starts.isdisjoint(text)):
            self._machine, _ = TextStateMachine.split(self._machine, text)
