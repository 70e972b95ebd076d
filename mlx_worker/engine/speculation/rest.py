"""Steps in which no draft is looked for: a search takes time too, where drafts do not pay.

[child]
"""

from __future__ import annotations

from typing import Final

LONGEST_REST: Final = 8
"""Steps in a row without a search: a text that begins to repeat itself is noticed behind them."""


class Rest:
    """Leave the search for drafts out of 1, 2, 4 and up to 8 steps while none is worth a wide pass.

    Another number of rows is another matter, and is searched for at once.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._length = 0
        self._left = 0

    def begin_step(self, rows: int) -> bool:
        """Begin a step; return True if no draft is looked for in it."""
        if rows != self._rows:
            self._rows, self._length, self._left = rows, 0, 0
        self._left -= 1
        return self._left >= 0

    def record(self, *, is_worth: bool) -> None:
        """Record what came of a search: whether a wide pass promised to be worth it."""
        self._length = 0 if is_worth else min(LONGEST_REST, max(1, 2 * self._length))
        self._left = self._length
