"""The single writer of a child's state.

Every event of a child arrives in one inbox, with the number of the incarnation that had the event.
One task applies the events to the `Lifecycle` and carries out what the new state means. Late events
of a former incarnation are dropped.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.logs import Entry
from mlx_worker.supervisor.process.crash_report import report_crash
from mlx_worker.supervisor.process.incarnation import Incarnation
from mlx_worker.supervisor.process.states import Event, IllegalEvent, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.supervisor.process.crash_report import ProcessExit
    from mlx_worker.supervisor.process.host import ChildContext
    from mlx_worker.supervisor.process.lifecycle import Lifecycle
    from mlx_worker.supervisor.process.pause import Handle

log = logging.getLogger(__name__)

OF_ANY_INCARNATION: Final = frozenset(
    {
        Event.START,
        Event.RESTART,
        Event.STOP,
        Event.HURRY,
        Event.CANNOT_START,
        Event.CAN_START,
    }
)
"""Requests to the child, which hold for whichever process runs when the writer takes them."""

LEAVE_SHARE: Final = 0.8
"""Part of the time until the deadline that a process has to write its KV to disk."""

WITH_A_PROCESS: Final = (State.STARTING, State.LOADING, State.READY, State.DRAINING)
"""States in which the reports of the process hold."""


@dataclass(frozen=True, slots=True)
class _Posted:
    """An event; `desired_running` is set for a request that says whether the child is to run."""

    incarnation: int
    event: Event
    reason: str
    desired_running: bool | None = None


class StateWriter:
    """Applies events to the lifecycle of one child, one after the other.

    `entered_at` has, for each state, the time of its last entry in ms since the epoch.
    `is_retry_due`: the slow retry of a model that was given up may begin.
    """

    def __init__(self, lifecycle: Lifecycle, context: ChildContext) -> None:
        self.lifecycle = lifecycle
        self.incarnation = Incarnation(0, context, self)
        self.entered_at: dict[State, float] = {}
        self.last_exit: ProcessExit | None = None
        self.is_retry_due = False
        self._context = context
        self._inbox: asyncio.Queue[_Posted] = asyncio.Queue()
        self._requested: deque[bool] = deque()
        self._posted_once: set[Event] = set()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Condition()
        self._timer: Handle | None = None
        self._task = asyncio.create_task(self._apply_events(), name=f"child {context.model}")

    @property
    def requested_running(self) -> bool | None:
        """Return whether the child is to run by the last request; None if all are applied."""
        return self._requested[-1] if self._requested else None

    def post(self, event: Event, reason: str = "", *, desired_running: bool | None = None) -> None:
        """Put an event of the current incarnation into the inbox."""
        if desired_running is not None:
            self._requested.append(desired_running)
        posted = _Posted(self.lifecycle.incarnation, event, reason, desired_running)
        self._inbox.put_nowait(posted)

    def post_once(self, event: Event) -> bool:
        """Put an event into the inbox; return False if the inbox has that event already."""
        if event in self._posted_once:
            return False
        self._posted_once.add(event)
        self.post(event)
        return True

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a state change makes the condition true."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def close(self) -> None:
        """End the writer and the timers. The child must have been stopped before."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._timer is not None:
            self._timer.cancel()  # the slow retry of a model that was given up

    # --- the listener of the incarnation ---

    def on_event(self, event: Event, reason: str, incarnation: int) -> None:
        """Put an event of one incarnation into the inbox."""
        self._inbox.put_nowait(_Posted(incarnation, event, reason))

    def on_load_progress(self) -> None:
        """Give the process that loads a new deadline, and tell the host."""
        self.lifecycle.extend_load_deadline(self._loop.time())
        self._set_timer()
        self._context.host.on_load_progress()

    def on_idle(self) -> None:
        """End a drain whose last request has ended."""
        if self.lifecycle.state is State.DRAINING:
            self.post(Event.DRAINED)

    # --- writing ---

    async def _apply_events(self) -> None:
        while True:
            posted = await self._inbox.get()
            if posted.desired_running is not None:
                self._requested.popleft()
            self._posted_once.discard(posted.event)
            is_late = posted.incarnation != self.lifecycle.incarnation
            if is_late and posted.event not in OF_ANY_INCARNATION:
                continue
            if posted.event is Event.UNLOAD and self._context.host.is_busy:
                continue
            before = self.lifecycle.state
            try:
                self.lifecycle.apply(posted.event, self._loop.time(), posted.reason)
            except IllegalEvent as error:
                log.debug(Entry("illegal event", model=self._context.model, what=str(error)))
                continue
            self.last_exit = self.incarnation.exit or self.last_exit
            if posted.event is Event.CANNOT_START:
                self._set_timer()
            if self.lifecycle.state is not before:
                try:
                    await self._carry_out(before, posted)
                except Exception as error:
                    # A defect, which must not end the one task that brings the model back.
                    log.exception(Entry("not carried out", model=self._context.model, was=before))
                    self._abandon_process(f"a defect of the node: {error!r}")

    async def _carry_out(self, before: State, posted: _Posted) -> None:
        state = self.lifecycle.state
        self._record_change(before, posted)
        self._set_timer()
        match state:
            case State.STARTING:
                await self._spawn()
            case State.READY:
                self.incarnation.on_ready()
            case State.DRAINING if self.incarnation.open_ids == 0:
                self.post(Event.DRAINED)
            case State.KILLING:
                self.incarnation.close()
                self.incarnation.kill()
            case State.STOPPING if before in (State.READY, State.DRAINING):
                self.incarnation.leave(self._seconds_left * LEAVE_SHARE)
            case State.STOPPING | State.BACKOFF | State.STOPPED | State.FAILED:
                self.incarnation.close()
            case _:
                pass
        self._context.host.on_state_entered(state)
        if state is State.LOADING:
            # Only now: the working set of the device may have lowered what the model may take.
            self.incarnation.load(self._context.host.load)
        async with self._changed:
            self._changed.notify_all()

    def _record_change(self, before: State, posted: _Posted) -> None:
        state = self.lifecycle.state
        self.entered_at[state] = time.time() * 1000
        if state not in WITH_A_PROCESS:
            self.incarnation.forget_status()
        has_ended = posted.event in (Event.EXITED, Event.DEVICE_LOST)
        if has_ended and before is not State.STOPPING and self.incarnation.exit is not None:
            report_crash(
                self._context.events,
                self._context.model,
                self.incarnation.exit,
                self.lifecycle.reason,
            )
        self._context.events.record(
            "state",
            self._context.model,
            level=logging.WARNING if state in (State.KILLING, State.FAILED) else logging.INFO,
            was=before.value,
            now=state.value,
            because=posted.event.value,
            reason=posted.reason,
        )

    async def _spawn(self) -> None:
        self.incarnation.close()  # the process may have ended without closing its pipe
        self.incarnation = Incarnation(self.lifecycle.incarnation, self._context, self)
        try:
            await self.incarnation.start()
        except OSError as error:
            self.post(Event.NOT_SPAWNED, str(error))

    def _abandon_process(self, why: str) -> None:
        """Kill the process, whose end leads out of any state; post that end if there is none."""
        if self.incarnation.is_running:
            self.incarnation.kill()
        else:
            self.post(Event.EXITED, why)

    # --- the deadline ---

    @property
    def _seconds_left(self) -> float:
        return (self.lifecycle.deadline or self._loop.time()) - self._loop.time()

    def _set_timer(self) -> None:
        """Have the deadline of the state arrive as an event."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_retry_due = False
        deadline, state = self.lifecycle.deadline, self.lifecycle.state
        if deadline is not None and state is State.FAILED:
            self._timer = self._loop.call_at(deadline, self._on_retry_due)
        elif deadline is not None:
            self._timer = self._context.pause.timer(
                deadline - self._loop.time(),
                self.on_event,
                Event.DEADLINE,
                "" if state is State.BACKOFF else f"{state.value} took too long",
                self.lifecycle.incarnation,
            )

    def _on_retry_due(self) -> None:
        if self._requested:
            return  # a request that waits in the inbox leads out of this state
        if self.incarnation.is_running:
            # Two processes of one model would share its memory.
            self.post(Event.CANNOT_START, self.lifecycle.reason)
        else:
            self.is_retry_due = True
            self._context.host.on_retry_due()
