"""What the engine says, put into frames.

A frame costs as much as a row in it, and wakes the front. So the tokens of several short decode
steps go up together: a step is held back if the next one will have come within `EVERY`. Nothing
else ever waits, and with anything else that is said, what was held back goes first. [child]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mlx_worker.wire.output import RowOutput, StepOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from mlx_worker.wire.base import WireMessage

EVERY: Final = 1 / 60
"""Seconds: no screen shows apart what comes within them."""


class FrameBatcher:
    """Where the engine's words leave. `send` writes messages to the front at once."""

    def __init__(
        self,
        send: Callable[[Iterable[WireMessage]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._clock = clock
        self._rows: dict[int, RowOutput] = {}
        self._speakers: AbstractSet[int] = frozenset()
        self._sent = self._put = clock()

    def put(self, said: Sequence[WireMessage], *, goes_on: bool) -> None:
        """Say this, or hold it back. `goes_on`: the next step comes at once and only decodes.

        Where it does not go on nothing is held, also when there is nothing new to say.
        """
        now = self._clock()
        took, self._put = now - self._put, now
        others = [it for it in said if not isinstance(it, StepOutput)]
        begins = [self._hold(it.rows) for it in said if isinstance(it, StepOutput)]
        late = now + took > self._sent + EVERY
        if others or any(begins) or late or not goes_on:
            self._out(others)

    def _hold(self, rows: Sequence[RowOutput]) -> bool:
        """Add a step's rows to what is held. Does any of them begin to speak?"""
        held = self._rows
        for row in rows:
            before = held.get(row.id)
            held[row.id] = row if before is None else before.followed_by(row)
        known, self._speakers = self._speakers, {row.id for row in rows}
        return not self._speakers <= known

    def _out(self, others: Sequence[WireMessage]) -> None:
        step = [StepOutput(list(self._rows.values()))] if self._rows else []
        if step or others:
            self._rows = {}
            self._sent = self._put
            self._send([*step, *others])
