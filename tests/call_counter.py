"""Work counted instead of timed: calls that were made, tokens that were compared."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable


def calls(work: Callable[[], object]) -> Counter[str]:
    """How often each function was called by it, by name, those written in C too.

    Garbage is collected when other work fills the heap, and libraries listen: that is not counted.
    """
    made: Counter[str] = Counter()

    def count(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            made[frame.f_code.co_name] += 1
        elif event == "c_call":
            made[argument.__name__] += 1

    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return made


class Token(int):
    """A token id that counts how often any was compared with another."""

    compared: ClassVar[int] = 0

    def __eq__(self, other: object) -> bool:
        Token.compared += 1
        return int.__eq__(self, other)

    def __lt__(self, other: int) -> bool:
        Token.compared += 1
        return int.__lt__(self, other)

    __hash__ = int.__hash__


def comparisons(work: Callable[[], object]) -> int:
    """How many `Token`s it compared; equal ones are to be objects of their own."""
    Token.compared = 0
    work()
    return Token.compared
