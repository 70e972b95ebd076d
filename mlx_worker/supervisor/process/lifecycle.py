"""The decisions of one child's life, without its process.

Holds the state, the incarnation, the one deadline and the reason; applies events by the table and
asks the restart policy. `Lifecycle` never acts and never reads a clock, so every path is tested
without a process; `writer` carries out what a state means.

[front]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker.supervisor.process.states import Event, State, transition

if TYPE_CHECKING:
    from mlx_worker.supervisor.process.restart_policy import RestartWindow


@dataclass(frozen=True, slots=True)
class Timings:
    """How long a child may take, in seconds.

    `load` and `stall` start anew with each progress (bytes loaded, prompt tokens
    prefilled, decode steps); the others run from the state's beginning. `inspect` limits one
    inspection of a model's folder; `watch` is the time between two comparisons of the folder of a
    model that was given up.
    """

    start: float = 120.0
    load: float = 120.0
    stall: float = 120.0
    drain: float = 30.0
    stop: float = 5.0
    kill: float = 10.0
    ping: float = 1.0
    inspect: float = 10.0
    watch: float = 5.0


class Lifecycle:
    """One child's state, and the deadline of the state."""

    def __init__(self, timings: Timings, restarts: RestartWindow) -> None:
        self._timings = timings
        self._window = restarts
        self.state = State.STOPPED
        self.incarnation = 0
        self.deadline: float | None = None
        self.reason = ""
        self.cause: Event | None = None
        """The event that last ended a process, or requested its end."""
        self.restarts_by: Counter[Event] = Counter()
        self.stalls = 0
        self.desired_running = False
        """The child is to run: after this process there is another, if the policy allows."""
        self.given_up = False
        """The child was given up and not READY since: a process that runs now is a slow retry."""
        self.given_up_after = 0
        """Processes that ended before the child was given up last, as far back as ends count."""
        self._is_futile = False
        self._ready_since: float | None = None
        # A closed pipe shows that the process ended; only the exit status shows why.
        self._exit_is_unexplained = False

    @property
    def restarts(self) -> int:
        """Return how often the child has been started again."""
        return self.restarts_by.total()

    @property
    def next_try(self) -> float | None:
        """Return when the child is started again; None: nothing is due."""
        return self.deadline if self.state in (State.BACKOFF, State.FAILED) else None

    @property
    def cannot_load(self) -> bool:
        """True if the model's files are why the child was given up."""
        causes = (Event.CANNOT_LOAD, Event.CANNOT_START)
        return self.state is State.FAILED and self.cause in causes

    @property
    def has_lost_its_device(self) -> bool:
        """True if the child was given up because new processes do not heal what ends them."""
        return self.state is State.FAILED and self.cause is Event.DEVICE_LOST

    def apply(self, event: Event, now: float, reason: str = "") -> State:
        """Apply one event. Raises IllegalEvent, and changes nothing, if the event cannot happen."""
        state = transition(self.state, event)
        self._record_cause(event, reason)
        if state is self.state:
            if event is Event.CANNOT_START and self.deadline is not None and now >= self.deadline:
                self.deadline = now + self._window.count_giving_up()
            return state
        self._enter(state, now)
        return self.state

    def extend_load_deadline(self, now: float) -> None:
        """Extend the deadline of a process that loads: a slow disk is not a hang."""
        if self.state is State.LOADING:
            self.deadline = now + self._timings.load

    def recent_ends(self, now: float) -> tuple[int, int]:
        """Return the recent ends that count, and how many of them are allowed."""
        return self._window.recent_ends(now), self._window.allowed

    def forgive_ends(self, ends: int) -> None:
        """Take back the ends that one refused request caused."""
        counted = self.state in (State.BACKOFF, State.FAILED)
        self._window.forgive_ends(ends, last_is_counted=counted)

    def _record_cause(self, event: Event, reason: str) -> None:
        """Record the cause of an end, not its consequences: the first thing that went wrong."""
        match event:
            case Event.START | Event.RESTART | Event.CAN_START:
                if event is Event.RESTART:
                    self.cause = event
                self.desired_running = event is not Event.CAN_START
                self._is_futile, self.given_up, self.reason = False, False, ""
                self._window.reset()
            case Event.CANNOT_START:
                self.cause, self.reason = event, reason
            case Event.DEADLINE if self.state is State.FAILED:
                self.desired_running, self._is_futile = True, False
            case Event.STOP | Event.UNLOAD:
                self.cause = event
                self.desired_running = False
            case Event.HELLO | Event.LOADED | Event.DRAINED | Event.HURRY | Event.GIVE_UP:
                pass
            case _ if self._is_cause(event):
                self.cause = event
                self.stalls += event is Event.STALLED
                self._is_futile = event in (Event.CANNOT_LOAD, Event.DEVICE_LOST)
                self._exit_is_unexplained = event is Event.LINK_LOST
                self.reason = reason or f"{event.value} while {self.state.value}"

    def _is_cause(self, event: Event) -> bool:
        match self.state:
            case State.KILLING:
                explains = event is Event.EXITED and self._exit_is_unexplained
                return explains or event in (Event.DEADLINE, Event.DEVICE_LOST)
            case State.STOPPING:
                return event is Event.DEADLINE
            case State.BACKOFF | State.FAILED | State.STOPPED:
                return False
            case _:
                return True

    def _enter(self, state: State, now: float) -> None:
        if self.state is State.READY:
            self._leave_ready(now)
        self.state = state
        self.deadline = None
        if state is State.STARTING:
            if self.incarnation > 0:
                assert self.cause is not None, "something has ended the process before"
                self.restarts_by[self.cause] += 1
            self.incarnation += 1
        if state is State.READY:
            self.given_up, self._ready_since = False, now
        if state is State.STOPPED and self.desired_running:
            self.apply(Event.START, now)
        elif state is State.FAILED:
            self.given_up = True
            # The window does not have the end of a process that shows that no process can run.
            self.given_up_after = self._window.recent_ends(now) + self._is_futile
            self.deadline = now + self._window.count_giving_up()
        elif state is State.BACKOFF:
            self._enter_backoff(now)
        elif (limit := self._time_limit(state)) is not None:
            self.deadline = now + limit

    def _leave_ready(self, now: float) -> None:
        """Forget the counted ends if the child was READY for a whole period."""
        assert self._ready_since is not None, "READY was entered"
        if now - self._ready_since >= self._window.period:
            self._window.reset()

    def _time_limit(self, state: State) -> float | None:
        match state:
            case State.STARTING:
                return self._timings.start
            case State.LOADING:
                return self._timings.load
            case State.DRAINING:
                return self._timings.drain
            case State.STOPPING:
                return self._timings.stop
            case State.KILLING:
                return self._timings.kill
            case _:
                return None

    def _enter_backoff(self, now: float) -> None:
        if not self.desired_running:
            self.apply(Event.STOP, now)
            return
        delay = self._restart_delay(now)
        if delay is None:
            self.apply(Event.GIVE_UP, now, self.reason)
        else:
            self.deadline = now + delay

    def _restart_delay(self, now: float) -> float | None:
        if self._is_futile:
            return None
        if self.cause is Event.NOT_SPAWNED:
            return self._window.count_failed_spawn()
        return self._window.count_end(now)
