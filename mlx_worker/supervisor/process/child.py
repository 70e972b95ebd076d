"""One child: the process of one model, through all its incarnations.

What is asked of a child goes to the single writer of its state (see `writer`); what a process has
reported is kept with its incarnation, so that a health report never waits for a process.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mlx_worker.errors import ChildLost, ModelFailed, ModelLoading, NodeDraining
from mlx_worker.supervisor.process.host import ChildContext
from mlx_worker.supervisor.process.states import Event, State
from mlx_worker.supervisor.process.writer import StateWriter
from mlx_worker.wire.messages import CancelGeneration

if TYPE_CHECKING:
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.process.connection import ResponseHandler
    from mlx_worker.supervisor.process.crash_report import ProcessExit
    from mlx_worker.supervisor.process.host import ChildHost
    from mlx_worker.supervisor.process.launch.launcher import Launch
    from mlx_worker.supervisor.process.lifecycle import Lifecycle, Timings
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.process.status import ChildStatus
    from mlx_worker.wire.base import WireMessage


class Child:
    """The process of one model. `launch` starts one; `pause` detects that the node did not run.

    `token_stats`, `disk_totals`, `kv_log` and `lines` (of stderr) cover all processes. Other
    modules only read `lifecycle`.
    """

    def __init__(
        self,
        model: str,
        host: ChildHost,
        lifecycle: Lifecycle,
        timings: Timings,
        *,
        launch: Launch,
        pause: PauseDetector,
        events: EventLog,
    ) -> None:
        context = ChildContext(model, host, timings, launch, pause, events)
        self.model = model
        self.lifecycle = lifecycle
        self.token_stats = context.token_stats
        self.lines = context.lines
        self.disk_totals = context.disk_totals
        self.kv_log = context.kv_log
        self._device_errors = context.device_errors
        self._loop = asyncio.get_running_loop()
        self._writer = StateWriter(lifecycle, context)

    # --- state and reports ---

    @property
    def state(self) -> State:
        """Return the state, which may change at any await: `open` checks the state again."""
        return self.lifecycle.state

    @property
    def reason(self) -> str:
        """Return why the child is not READY, or why it was restarted last."""
        return self.lifecycle.reason

    @property
    def status(self) -> ChildStatus:
        """Return the latest reports of the process that serves or loads the model."""
        return self._writer.incarnation.status

    @property
    def last_exit(self) -> ProcessExit | None:
        """Return how the last process ended; None if none has ended."""
        return self._writer.last_exit

    @property
    def entered_at(self) -> dict[State, float]:
        """Return when each state was entered last, in ms since the epoch."""
        return self._writer.entered_at

    @property
    def desired_running(self) -> bool:
        """True if the child is to run. A request counts even before the writer applies it."""
        requested = self._writer.requested_running
        return self.lifecycle.desired_running if requested is None else requested

    @property
    def coming_back(self) -> bool:
        """True if the child runs or will, so that lost requests may wait for its next process.

        False for a child that was given up, unless its start is requested.
        """
        given_up = self.state is State.FAILED and self._writer.requested_running is None
        return self.desired_running and not given_up

    @property
    def retry_after(self) -> float:
        """Return the seconds until the next try, at least 1."""
        return max(1.0, (self.lifecycle.next_try or 0.0) - self._loop.time())

    @property
    def recent_ends(self) -> tuple[int, int]:
        """Return how many recent ends count against the child, and how many are allowed."""
        return self.lifecycle.recent_ends(self._loop.time())

    @property
    def open_ids(self) -> int:
        """Return the number of requests that the process has not answered to their end."""
        return self._writer.incarnation.open_ids

    @property
    def serving(self) -> bool:
        """True if the process takes requests. A dead process may be READY for a moment yet."""
        in_service = self.state in (State.READY, State.DRAINING)
        return in_service and self._writer.incarnation.is_connected

    def refusal(self) -> WorkerError | None:
        """Return why the child takes no new work in its state; None if it does."""
        match self.state:
            case State.READY:
                return None
            case State.FAILED:
                why = f"model {self.model!r} was given up: {self.reason}"
                return ModelFailed(why, retry_after=self.retry_after)
            case State.DRAINING if not self.coming_back:
                return NodeDraining(f"model {self.model!r} is being stopped", retry_after=5)
            case state:
                why = f" after: {self.reason}" if self.reason else ""
                wait = max(2.0, self.retry_after)
                return ModelLoading(f"model {self.model!r} is {state.value}{why}", retry_after=wait)

    # --- requests for another state ---

    def start(self) -> None:
        """Request that the child runs. Do nothing if the child runs already."""
        if self._writer.is_retry_due:  # the ends before the retry still count
            self._writer.post(Event.DEADLINE, desired_running=True)
        else:
            self._device_errors.reset()
            self._writer.post(Event.START, desired_running=True)

    def restart(self) -> None:
        """Request a new process; what runs may finish within the drain deadline first."""
        self._device_errors.reset()
        self._writer.post(Event.RESTART, desired_running=True)

    def stop(self) -> None:
        """Request that the child finishes its work, within the drain deadline, and ends."""
        self._writer.post(Event.STOP, desired_running=False)

    def unload(self) -> bool:
        """Request that the child ends until it is needed; False if that is requested already.

        Nothing happens if the child is busy when the writer takes the request.
        """
        return self._writer.post_once(Event.UNLOAD)

    def cut_drain_short(self) -> None:
        """Request the end of a drain: what still runs is cut off."""
        self._writer.post(Event.HURRY)

    def cannot_start(self, why: str) -> None:
        """Report that the model cannot be started now: its folder or memory does not allow it."""
        self._writer.post(Event.CANNOT_START, why)

    def can_start(self) -> None:
        """Report that the model can be started again, by its first request."""
        self._writer.post(Event.CAN_START)

    # --- work ---

    def open(self, id_: int, handler: ResponseHandler, message: WireMessage) -> None:
        """Send a message that is answered; the handler gets the answers.

        Raises `refusal`, or ChildLost, unless the child is `serving`; ValueError if the message
        fits no frame.
        """
        connection = self._writer.incarnation.connection
        if connection is None or not self.serving:
            raise self.refusal() or ChildLost("the model's process has just ended", retry_after=1)
        connection.open(id_, handler, message)

    def cancel(self, id_: int) -> None:
        """Tell the process that its answer to this id is not needed any more."""
        self._writer.incarnation.send(CancelGeneration(id_))

    # --- waiting for a state ---

    async def reached(self, *states: State) -> State:
        """Wait until the child is in one of these states."""
        await self._writer.wait_for(lambda: self.state in states)
        return self.state

    async def wait_until_settled(self) -> None:
        """Wait until the child serves, or until only a request can bring the child back."""
        await self._writer.wait_for(
            lambda: (
                self.serving
                or self.state is State.FAILED
                or (self.state is State.STOPPED and not self.coming_back)
            )
        )

    async def close(self) -> None:
        """End the writer and the timers. The child must have been stopped before."""
        self.lines.close()
        await self._writer.close()
