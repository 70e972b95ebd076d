"""The life of one child, as a literal table.

A child is a process that may end at any instruction without a message, so its state lives here, in
the front, and changes only by what the front has seen. One task (see `writer`) feeds events in, and
no other part decides from a state that it read earlier. An event that the table does not have for a
state cannot happen: it raises and changes nothing. Three rules shape it:

- Only READY takes work. Everything that goes wrong on the way leads to KILLING, because only the
  end of a process returns its memory; only EXITED, seen by the front, proves that end.
- After EXITED comes BACKOFF, always, unless the node wanted the child gone; there the restart
  policy answers with a delay (DEADLINE follows) or with GIVE_UP.
- Every state that waits has one deadline. Its passing is an event like any other.
- RESTART goes the way of STOP, but for what runs no more: that starts at once. The lifecycle
  remembers that the child is wanted, and STOPPED is followed by START.
- FAILED is not for ever. Its deadline is a slow retry; the node lets the deadline through
  (DEADLINE) once the model's folder can be used and memory has room. CAN_START says that the
  folder can be used again, for a model that waits for its first request.
- A model whose folder cannot be used is FAILED without a process (CANNOT_START). A process that
  the system refuses to start is no crash (NOT_SPAWNED): BACKOFF follows, and never GIVE_UP.
- UNLOAD is STOP for a child without work: there is nothing to drain. A START that comes before its
  process has ended is remembered like a RESTART.

        START        HELLO         LOADED
STOPPED ─────► STARTING ────► LOADING ────► READY ──STOP──► DRAINING ──DRAINED──► STOPPING
   ▲              ▲  └─────────────┴──────────┴── anything wrong ──┐   ┌── deadline ──┘ │
   │              │ DEADLINE                                       ▼   ▼                │
   │              └────────── BACKOFF ◄──────── EXITED ─────────  KILLING               │
   │                             └─GIVE_UP─► FAILED ──START or DEADLINE──► STARTING     │
   ├──CANNOT_START──► FAILED ──CAN_START──► STOPPED                                     │
   └──────────────────────────────── EXITED ◄───────────────────────────────────────────┘

[front]
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(StrEnum):
    """The state of a child."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    KILLING = "killing"
    BACKOFF = "backoff"
    FAILED = "failed"


class Event(StrEnum):
    """What the front sees of a child, or requests of a child.

    The value is the text that people read, in log lines and reasons; programs read `label`.
    """

    START = "start"
    HELLO = "hello"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    CANNOT_LOAD = "cannot be loaded"
    CANNOT_START = "folder cannot be used"
    CAN_START = "folder can be used again"
    NOT_SPAWNED = "no process could be started"
    STOP = "stop"
    RESTART = "restart"
    UNLOAD = "not needed now"
    DRAINED = "drained"
    HURRY = "told not to wait"
    STALLED = "no progress"
    GARBAGE = "garbage on the pipe"
    LINK_LOST = "pipe closed"
    EXITED = "process ended"
    DEVICE_LOST = "process ended by its device, like those before it"
    DEADLINE = "deadline passed"
    GIVE_UP = "given up"

    @property
    def label(self) -> str:
        """Return the name that metrics and reports have for the event."""
        return self.name.lower()


class IllegalEvent(Exception):
    """An event that the table does not have for this state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.name} cannot happen in {state.name}")
        self.state = state
        self.event = event


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.STOPPED: {
        Event.START: State.STARTING,
        Event.RESTART: State.STARTING,
        Event.STOP: State.STOPPED,
        Event.CANNOT_START: State.FAILED,
    },
    State.STARTING: {
        Event.HELLO: State.LOADING,
        Event.STOP: State.STOPPING,
        Event.RESTART: State.STOPPING,
        Event.GARBAGE: State.KILLING,
        Event.LINK_LOST: State.KILLING,
        Event.DEADLINE: State.KILLING,
        Event.NOT_SPAWNED: State.BACKOFF,
        Event.EXITED: State.BACKOFF,
        Event.DEVICE_LOST: State.BACKOFF,
    },
    State.LOADING: {
        Event.LOADED: State.READY,
        Event.LOAD_FAILED: State.KILLING,
        Event.CANNOT_LOAD: State.KILLING,
        Event.STOP: State.STOPPING,
        Event.RESTART: State.STOPPING,
        Event.GARBAGE: State.KILLING,
        Event.LINK_LOST: State.KILLING,
        Event.DEADLINE: State.KILLING,
        Event.EXITED: State.BACKOFF,
        Event.DEVICE_LOST: State.BACKOFF,
    },
    State.READY: {
        Event.STOP: State.DRAINING,
        Event.RESTART: State.DRAINING,
        Event.UNLOAD: State.STOPPING,
        Event.STALLED: State.KILLING,
        Event.GARBAGE: State.KILLING,
        Event.LINK_LOST: State.KILLING,
        Event.EXITED: State.BACKOFF,
        Event.DEVICE_LOST: State.BACKOFF,
    },
    State.DRAINING: {
        Event.DRAINED: State.STOPPING,
        Event.HURRY: State.STOPPING,
        Event.DEADLINE: State.STOPPING,
        Event.STOP: State.DRAINING,
        Event.RESTART: State.DRAINING,
        Event.STALLED: State.KILLING,
        Event.GARBAGE: State.KILLING,
        Event.LINK_LOST: State.KILLING,
        Event.EXITED: State.STOPPED,
        Event.DEVICE_LOST: State.STOPPED,
    },
    State.STOPPING: {
        Event.START: State.STOPPING,
        Event.STOP: State.STOPPING,
        Event.RESTART: State.STOPPING,
        Event.GARBAGE: State.STOPPING,
        Event.LINK_LOST: State.STOPPING,
        Event.DEADLINE: State.KILLING,
        Event.EXITED: State.STOPPED,
        Event.DEVICE_LOST: State.STOPPED,
    },
    State.KILLING: {
        # A child that outlives SIGKILL hangs in the kernel; a new one would meet the same device.
        Event.DEADLINE: State.FAILED,
        Event.START: State.KILLING,
        Event.STOP: State.STOPPING,
        Event.RESTART: State.KILLING,
        Event.GARBAGE: State.KILLING,
        Event.LINK_LOST: State.KILLING,
        Event.STALLED: State.KILLING,
        Event.EXITED: State.BACKOFF,
        Event.DEVICE_LOST: State.BACKOFF,
    },
    State.BACKOFF: {
        Event.DEADLINE: State.STARTING,
        Event.GIVE_UP: State.FAILED,
        Event.STOP: State.STOPPED,
        Event.RESTART: State.STARTING,
    },
    State.FAILED: {
        Event.START: State.STARTING,
        Event.RESTART: State.STARTING,
        Event.STOP: State.STOPPED,
        Event.DEADLINE: State.STARTING,
        Event.CANNOT_START: State.FAILED,
        Event.CAN_START: State.STOPPED,
        Event.EXITED: State.FAILED,
        Event.DEVICE_LOST: State.FAILED,
        Event.LINK_LOST: State.FAILED,
    },
}

WAITING: Final = frozenset(
    {
        State.STARTING,
        State.LOADING,
        State.DRAINING,
        State.STOPPING,
        State.KILLING,
        State.BACKOFF,
        State.FAILED,
    }
)
"""States that a deadline ends."""


def transition(state: State, event: Event) -> State:
    """Return the next state. Raises IllegalEvent if the table does not have the event."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalEvent(state, event) from None
