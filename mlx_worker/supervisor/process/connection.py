"""The front's end of one child's pipe.

Bytes in, messages out to the response handler of their id, in the same callback that read them: no
queue and no task between the socket and the stream it feeds. The connection keeps the law of ids:
each id opened here gets exactly one end, either the child's final response or, if the connection is
lost, the call of `on_connection_lost`.

[front]
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
from mlx_worker.wire.kv_blocks import KvBlocks
from mlx_worker.wire.messages import (
    FromChild,
    Gathering,
    Hello,
    Leave,
    Loaded,
    LoadFailed,
    LoadProgress,
    Pong,
    PrefillProgress,
    RequestFailed,
    Started,
)
from mlx_worker.wire.output import Done, PromptScores, RowOutput, StepOutput
from mlx_worker.wire.prompt_cache import CacheCleared, CacheState, DiskState, PromptWarmed
from mlx_worker.wire.tokenizing import DetokenizeResult, TokenizeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.wire.base import WireMessage

FinalResponse = (
    Done | PromptWarmed | CacheCleared | TokenizeResult | DetokenizeResult | RequestFailed
)
ResponseMessage = Started | PrefillProgress | PromptScores | RowOutput | FinalResponse
"""A message about an opened id."""
ChildReport = (
    Hello
    | Gathering
    | LoadProgress
    | Loaded
    | LoadFailed
    | CacheState
    | DiskState
    | KvBlocks
    | Pong
)
"""A message about the child as a whole."""

CLOSED_BY_NODE = "the pipe was closed by the node"

UNREAD_BYTES = 1 << 16
"""Bytes that are read at a time from what a failed write left unread."""


class ResponseHandler(Protocol):
    """The receiver of the messages about one id. Called on the event loop, must not block."""

    def on_message(self, message: ResponseMessage) -> None:
        """Handle one message about the id, in the order of sending."""

    def on_connection_lost(self, why: str) -> None:
        """Handle that the child's final response to the id will not come."""


@dataclass(frozen=True, slots=True)
class ConnectionCallbacks:
    """The receivers of what concerns the child as a whole.

    `on_report` gets its reports, `on_end` the end of its pipe, `on_idle` is called when no id is
    open any more, `on_step` gets the rows of each decode step.
    """

    on_report: Callable[[ChildReport], None]
    on_end: Callable[[Event, str], None]
    on_idle: Callable[[], None]
    on_step: Callable[[list[RowOutput]], None]


class ChildConnection(asyncio.Protocol):
    """One duplex pipe. `last_progress` is on the loop's clock, `ended` is set with its end."""

    def __init__(self, callbacks: ConnectionCallbacks) -> None:
        self.callbacks = callbacks
        self._frames = frames_from_child()
        self._handlers: dict[int, ResponseHandler] = {}
        self._transport: asyncio.Transport | None = None
        self._leaving: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._loop = asyncio.get_running_loop()
        self.last_progress = self._loop.time()
        self.ended = asyncio.Event()

    @property
    def open_ids(self) -> int:
        """Return the number of ids that wait for their final response."""
        return len(self._handlers)

    @property
    def is_up(self) -> bool:
        """True if messages can be sent."""
        return self._transport is not None

    def open(self, id_: int, handler: ResponseHandler, message: WireMessage) -> None:
        """Send a message that is answered; the handler gets the answers.

        Raises ChildLost if the pipe is closed, ValueError if the message fits no frame.
        """
        frame = encode(message)
        if self._transport is None:
            raise ChildLost("the model's process has just ended", retry_after=1)
        if not self._handlers:
            self.last_progress = self._loop.time()
        self._handlers[id_] = handler
        self._transport.write(frame)

    def send(self, message: WireMessage) -> None:
        """Send a message without an answer of its own. Do nothing if the pipe is closed."""
        if self._transport is not None:
            self._transport.write(encode(message))

    def close(self) -> None:
        """Close the pipe: the child reads EOF and leaves at once."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            leaving.abort()
        if self._transport is not None:
            self._transport.abort()
            self._lose_open_ids(CLOSED_BY_NODE)

    def leave(self, seconds: float) -> None:
        """Have the child write its KV to disk and end, within `seconds`; what it sends is ignored.

        Open ids are lost at once, as when the pipe is closed.
        """
        if self._transport is not None:
            self._transport.write(encode(Leave(seconds)))
            self._leaving = self._transport
            self._lose_open_ids(CLOSED_BY_NODE)

    # --- asyncio.Protocol ---

    def keep_socket(self, end: socket.socket) -> None:
        """Keep the socket under the transport, for what a failed write leaves unread."""
        self._socket = end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Deliver every message that these bytes complete, unless the process is leaving."""
        if self._transport is None:
            return
        try:
            for message in self._frames.feed(data):
                self._deliver(message)
        except ProtocolViolation as error:
            self._report_end(Event.GARBAGE, error.message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Deliver what is unread, and report the end of the pipe."""
        if exc is not None:
            self._deliver_unread()
        self._report_end(
            Event.LINK_LOST, f"pipe closed: {exc}" if exc else "the process closed its pipe"
        )

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
                self.callbacks.on_step(message.rows)
                for row in message.rows:
                    self._handler(row.id).on_message(row)
            case Started() | PrefillProgress() | PromptScores():
                self.last_progress = self._loop.time()
                self._handler(message.id).on_message(message)
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
                handler = self._handler(message.id)
                del self._handlers[message.id]
                handler.on_message(message)
                if not self._handlers:
                    self.callbacks.on_idle()
            case _:
                self.callbacks.on_report(message)

    def _handler(self, id_: int) -> ResponseHandler:
        try:
            return self._handlers[id_]
        except KeyError:
            raise ProtocolViolation(f"a message about id {id_}, which is not open") from None

    def _report_end(self, event: Event, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._lose_open_ids(reason)
            self.callbacks.on_end(event, reason)

    def _lose_open_ids(self, reason: str) -> None:
        self._transport = None
        self.ended.set()
        handlers, self._handlers = self._handlers, {}
        for handler in handlers.values():
            handler.on_connection_lost(f"the model's process ended: {reason}")


async def connect(connection: ChildConnection) -> socket.socket:
    """Join a connection to a new socketpair; return the end that the child inherits."""
    ours, theirs = socket.socketpair()
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=ours)
        connection.keep_socket(ours)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return theirs
