"""The engine's messages, put into frames.

A frame costs as much as a row in a frame, and wakes the front. So the tokens of several short
decode steps are sent together: a step is held back if the next step is expected within `EVERY`. No
other message waits, and a held step goes out in front of any other message. [child]
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
"""Seconds: a screen shows what comes within this time at once."""


class FrameBatcher:
    """Send the engine's messages, short steps together. `send` writes to the front at once."""

    def __init__(
        self,
        send: Callable[[Iterable[WireMessage]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._clock = clock
        self._rows: dict[int, list[RowOutput]] = {}
        self._row_ids: AbstractSet[int] = frozenset()
        self._sent = self._put = clock()

    def put(self, messages: Sequence[WireMessage], *, goes_on: bool) -> None:
        """Send messages or hold them back. `goes_on`: the next step comes at once and only decodes.

        Otherwise held messages are sent too, even if `messages` is empty.
        """
        now = self._clock()
        took, self._put = now - self._put, now
        others: list[WireMessage] = []
        begins = False
        for message in messages:
            if isinstance(message, StepOutput):
                begins |= self._hold(message.rows)
            else:
                others.append(message)
        late = now + took > self._sent + EVERY
        if others or begins or late or not goes_on:
            self._out(others)

    def _hold(self, rows: Sequence[RowOutput]) -> bool:
        """Hold a step's rows; return True if one of them was not in the step before."""
        held = self._rows
        for row in rows:
            if (outputs := held.get(row.id)) is None:
                held[row.id] = [row]
            else:
                outputs.append(row)
        known, self._row_ids = self._row_ids, {row.id for row in rows}
        return not self._row_ids <= known

    def _out(self, others: Sequence[WireMessage]) -> None:
        step = [StepOutput([*map(RowOutput.joined, self._rows.values())])] if self._rows else []
        if step or others:
            self._rows = {}
            self._sent = self._put
            self._send([*step, *others])
