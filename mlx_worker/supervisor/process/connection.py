"""The front's end of one child's pipe.

Bytes in, messages out to whoever opened their id, in the same callback that read them: no queue
and no task between the socket and the stream it feeds. The link keeps the law of ids: every id
opened here hears exactly one last word, from the child or, when the child is gone, the link's call
of `on_connection_lost`. [front]
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from mlx_worker.errors import CHILD_CODES, ChildLost, ProtocolViolation
from mlx_worker.supervisor.process.states import Event
from mlx_worker.wire.framing import encode, frames_from_child
from mlx_worker.wire.messages import (
    CacheCleared,
    CacheState,
    DetokenizeResult,
    FromChild,
    Hello,
    Loaded,
    LoadFailed,
    LoadProgress,
    Pong,
    PrefillProgress,
    PromptWarmed,
    RequestFailed,
    Started,
    TokenizeResult,
)
from mlx_worker.wire.output import Done, PromptScores, RowOutput, StepOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.wire.base import WireMessage

LastWord = Done | PromptWarmed | CacheCleared | TokenizeResult | DetokenizeResult | RequestFailed
Told = Started | PrefillProgress | PromptScores | RowOutput | LastWord
"""What an opened id may hear."""
Fact = Hello | LoadProgress | Loaded | LoadFailed | CacheState | Pong
"""What concerns the child as a whole."""

UNREAD_BYTES = 1 << 16
"""How much is read at a time of what a failed write left unread."""


class Listener(Protocol):
    """Whoever opened an id. Called on the event loop, must not block."""

    def hear(self, message: Told) -> None:
        """One message about this id, in the order the child said them."""

    def on_connection_lost(self, why: str) -> None:
        """Take in that the child's last word about this id will not come."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who is told of the child as a whole.

    Of facts, the end of its pipe, that no id is open, and the rows of each decode step.
    """

    on_fact: Callable[[Fact], None]
    on_end: Callable[[Event, str], None]
    on_quiet: Callable[[], None]
    on_step: Callable[[list[RowOutput]], None]


class Link(asyncio.Protocol):
    """One duplex pipe. `owner` hears what concerns the child; the rest goes to listeners."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self._frames = frames_from_child()
        self._listeners: dict[int, Listener] = {}
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._loop = asyncio.get_running_loop()
        self.last_progress = self._loop.time()
        self.ended = asyncio.Event()

    @property
    def open_ids(self) -> int:
        """How many ids wait for their last word."""
        return len(self._listeners)

    @property
    def is_up(self) -> bool:
        """Can anything be said?"""
        return self._transport is not None

    def open(self, id_: int, listener: Listener, message: WireMessage) -> None:
        """Say something that will be answered; the listener hears the answers.

        Raises ChildLost if the pipe is gone, ValueError if the message fits no frame.
        """
        frame = encode(message)
        if self._transport is None:
            raise ChildLost("the model's process has just ended", retry_after=1)
        if not self._listeners:
            self.last_progress = self._loop.time()
        self._listeners[id_] = listener
        self._transport.write(frame)

    def send(self, message: WireMessage) -> None:
        """Say something without an answer of its own. Nothing happens if the pipe is gone."""
        if self._transport is not None:
            self._transport.write(encode(message))

    def close(self) -> None:
        """End the pipe: the child reads EOF and leaves at once."""
        if self._transport is not None:
            self._transport.abort()
            self._lose("the pipe was closed by the node")

    # --- asyncio.Protocol ---

    def attach(self, end: socket.socket) -> None:
        """Keep the socket under the transport, for what a failed write leaves unread."""
        self._socket = end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Deliver every message that these bytes complete."""
        try:
            for message in self._frames.feed(data):
                self._deliver(message)
        except ProtocolViolation as error:
            self._end(Event.GARBAGE, error.message)

    def connection_lost(self, exc: Exception | None) -> None:
        """EOF, or worse."""
        if exc is not None:
            self._deliver_unread()
        self._end(Event.LINK_LOST, f"pipe closed: {exc}" if exc else "the process closed its pipe")

    # --- inside ---

    def _deliver_unread(self) -> None:
        """Deliver what the process wrote before it ended: a failed write stops all reading."""
        with suppress(OSError):
            while self._transport is not None and self._socket is not None:
                if not (data := self._socket.recv(UNREAD_BYTES)):
                    return
                self.data_received(data)

    def _deliver(self, message: FromChild) -> None:
        match message:
            case StepOutput():
                self.last_progress = self._loop.time()
                self.owner.on_step(message.rows)
                for row in message.rows:
                    self._listener(row.id).hear(row)
            case Started() | PrefillProgress() | PromptScores():
                self.last_progress = self._loop.time()
                self._listener(message.id).hear(message)
            case RequestFailed() if message.code not in CHILD_CODES:
                raise ProtocolViolation(
                    f"an error with a code that no child sends: {message.code!r}"
                )
            case (
                Done()
                | PromptWarmed()
                | CacheCleared()
                | TokenizeResult()
                | DetokenizeResult()
                | RequestFailed()
            ):
                self.last_progress = self._loop.time()
                listener = self._listener(message.id)
                del self._listeners[message.id]
                listener.hear(message)
                if not self._listeners:
                    self.owner.on_quiet()
            case _:
                self.owner.on_fact(message)

    def _listener(self, id_: int) -> Listener:
        try:
            return self._listeners[id_]
        except KeyError:
            raise ProtocolViolation(f"a message about id {id_}, which is not open") from None

    def _end(self, event: Event, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._lose(reason)
            self.owner.on_end(event, reason)

    def _lose(self, reason: str) -> None:
        self._transport = None
        self.ended.set()
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.on_connection_lost(f"the model's process ended: {reason}")


async def connect(link: Link) -> socket.socket:
    """Join a link to a fresh socketpair; returns the end that the child inherits."""
    ours, theirs = socket.socketpair()
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        link.attach(ours)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return theirs
