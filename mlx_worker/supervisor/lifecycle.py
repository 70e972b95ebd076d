"""The decisions of one child's life, without its process.

Holds the state, the incarnation, the one deadline and the reason; applies events by the table and
asks the restart policy. It never acts and never reads a clock, so every path is tested without a
process; `child` carries out what a state means. [front]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker.supervisor.states import Event, State, transition

if TYPE_CHECKING:
    from mlx_worker.supervisor.restart import RestartWindow


@dataclass(frozen=True, slots=True)
class Timings:
    """How long a child may take, in seconds.

    `load` and `stall` run anew with every sign of progress (bytes loaded, prompt tokens
    prefilled, decode steps); the others run from the state's beginning.
    """

    start: float = 120.0
    load: float = 120.0
    stall: float = 120.0
    drain: float = 30.0
    stop: float = 5.0
    kill: float = 10.0
    ping: float = 1.0


class Lifecycle:
    """One child's state and what is to be waited for in it."""

    def __init__(self, timings: Timings, restarts: RestartWindow) -> None:
        self._timings = timings
        self._window = restarts
        self.state = State.STOPPED
        self.incarnation = 0
        self.deadline: float | None = None
        self.reason = ""
        self.cause: Event | None = None
        """What last ended a process, or asked for that."""
        self.restarts_by: Counter[Event] = Counter()
        self.stalls = 0
        self.wanted = False
        """After this process there is to be another, if the policy allows."""
        self._hopeless = False
        # A closed pipe says that the process ended, not why: its exit status will.
        self._unexplained = False

    @property
    def restarts(self) -> int:
        """How often it has been started again."""
        return self.restarts_by.total()

    def apply(self, event: Event, now: float, reason: str = "") -> State:
        """Apply one event. Raises IllegalEvent, and nothing changes, if it cannot happen."""
        state = transition(self.state, event)
        self._note(event, reason)
        if state is self.state:
            return state
        self._enter(state, now)
        return self.state

    def progressed(self, now: float) -> None:
        """More of the model is in memory: a slow disk is not a hang."""
        if self.state is State.LOADING:
            self.deadline = now + self._timings.load

    def _note(self, event: Event, reason: str) -> None:
        """Keep the cause, not its consequences: the first thing that went wrong."""
        match event:
            case Event.START | Event.RESTART:
                if event is Event.RESTART:
                    self.cause = event
                self.wanted, self._hopeless, self.reason = True, False, ""
                self._window.forget()
            case Event.STOP | Event.UNLOAD:
                self.cause = event
                self.wanted = False
            case Event.HELLO | Event.LOADED | Event.DRAINED | Event.HURRY | Event.GIVE_UP:
                pass
            case _ if self._is_cause(event):
                self.cause = event
                self.stalls += event is Event.STALLED
                self._hopeless = event in (Event.CANNOT_LOAD, Event.DEVICE_LOST)
                self._unexplained = event is Event.LINK_LOST
                self.reason = reason or f"{event.value} while {self.state.value}"

    def _is_cause(self, event: Event) -> bool:
        match self.state:
            case State.KILLING:
                explains = event is Event.EXITED and self._unexplained
                return explains or event in (Event.DEADLINE, Event.DEVICE_LOST)
            case State.STOPPING:
                return event is Event.DEADLINE
            case State.BACKOFF | State.FAILED | State.STOPPED:
                return False
            case _:
                return True

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self.deadline = None
        if state is State.STARTING:
            if self.incarnation > 0:
                assert self.cause is not None, "something has ended the process before"
                self.restarts_by[self.cause] += 1
            self.incarnation += 1
        if state is State.STOPPED and self.wanted:
            self.apply(Event.START, now)
        elif state is State.BACKOFF:
            self._enter_backoff(now)
        elif (patience := self._patience(state)) is not None:
            self.deadline = now + patience

    def _patience(self, state: State) -> float | None:
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
        if not self.wanted:
            self.apply(Event.STOP, now)
            return
        delay = None if self._hopeless else self._window.ended(now)
        if delay is None:
            self.apply(Event.GIVE_UP, now, self.reason)
        else:
            self.deadline = now + delay
