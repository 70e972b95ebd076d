"""Run one recorded request in a task of its own, and end the request once no client wants it.

Clients come and go. While the request runs, the last client that leaves starts a timer; a client
that comes back stops the timer. At its end the timer ends the request. A response that has ended is
kept for the same time.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from mlx_worker.api.dialects.responses.ids import new_response_id
from mlx_worker.api.generation.lingering.follower import follow
from mlx_worker.api.generation.lingering.recording import Recording
from mlx_worker.api.generation.lingering.response_object import ResponseObject
from mlx_worker.api.generation.lingering.stand_in import RecordedHttpRequest
from mlx_worker.api.middleware.connections import Connection
from mlx_worker.api.middleware.request_ids import request_id
from mlx_worker.api.middleware.slow_steps import SLOW_STEPS
from mlx_worker.api.request_record import RECORDER
from mlx_worker.errors import NodeDraining, ResponseCancelled, WorkerError
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo
    from mlx_worker.api.generation.lingering.attempt import Attempt
    from mlx_worker.api.request_record import LiveRequest, RequestRecord
    from mlx_worker.supervisor.process.pause import Handle, PauseDetector

    Respond = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]
    """What responds to a request in some dialect."""

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """The table that knows a recorded request."""

    @property
    def linger_background(self) -> float:
        """Return the seconds that a response made in the background is kept after its end."""

    def forget(self, recorded: RecordedRequest) -> None:
        """Let no client join the request from now on."""

    def keep_ended(self, recorded: RecordedRequest) -> None:
        """Keep a response that has ended for clients that come later, as far as memory allows."""


class RecordedRequest:
    """One request whose response is recorded, and the clients that read the response.

    `attempt` is the first one. `linger` is in seconds. `live` accounts for the request from the
    parsing of its body to its end, and `record` is its end. `response_id` is the id of the
    Responses object, and `object` tells how far that is; "" and None in other dialects.
    `was_delivered`: a client has got the whole response, as far as can be known.
    """

    def __init__(
        self,
        request: web.Request,
        attempt: Attempt,
        keeper: Keeper,
        pause: PauseDetector,
        max_bytes: int,
    ) -> None:
        self.attempt = attempt
        self.linger = attempt.linger
        self.recording = Recording(max_bytes, self._on_overflow)
        request_id(request)  # the stand-in has the same
        self.request = RecordedHttpRequest(request, self.recording)
        self.request[RECORDER] = self
        self.live: LiveRequest | None = None
        self.record: RequestRecord | None = None
        self.object: ResponseObject | None = None
        self.is_background = False
        self.response_id = new_response_id() if attempt.content.dialect == "responses" else ""
        self._keeper = keeper
        self._pause = pause
        self._connections: set[web.RequestHandler] = set()
        self.was_delivered = False
        self._parsed = asyncio.Event()
        self._timer: Handle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, respond: Respond) -> None:
        """Respond to the request, in a task of its own."""
        self._task = asyncio.create_task(self._run(respond))
        self._task.add_done_callback(self._on_end)

    async def _run(self, respond: Respond) -> None:
        try:
            steps = self.request.app[SLOW_STEPS]
            response = await steps.timed(self.request, respond(self.request))
        except Exception as error:  # noqa: BLE001  (the clients' handlers raise the error)
            self._fail(error)
            return
        if self.recording.is_stream:
            self.recording.finish()
        else:
            assert isinstance(response, web.Response), "a response that is no stream is whole"
            self.recording.finish_whole(response)

    def _fail(self, error: Exception) -> None:
        is_unheard = self.recording.is_stream or not self._connections
        if is_unheard and not isinstance(error, WorkerError):
            log.error(
                Entry("unexpected error", request_id=request_id(self.request)), exc_info=error
            )
        self.recording.fail(error)

    # --- the accounting of the request ---

    def on_begin(self, live: LiveRequest) -> None:
        """Note what accounts for the request."""
        self.live = live

    def on_parsed(self, request: GenerationRequest, info: ResponseInfo) -> None:
        """Note what the request asks for."""
        self.object = ResponseObject.of(request, info)
        if self.object is not None and self.object.is_background:
            self.is_background, self.linger = True, self._keeper.linger_background
        self._parsed.set()

    def on_end(self, record: RequestRecord) -> None:
        """Note the end of the request, without its prompts, which the response may outlive."""
        self.record, self.live = replace(record, generations=[]), None
        self.recording.is_broken = bool(record.error)

    # --- the response's object ---

    async def parsed(self) -> None:
        """Wait until the request is understood. Raises the refusal of one that is not."""
        await self._parsed.wait()
        if self.recording.error is not None and not self.recording.is_stream:
            raise self.recording.error

    def snapshot(self) -> RequestRecord:
        """Return what is known of the request now, or at its end."""
        if self.record is not None:
            return self.record
        assert self.live is not None, "the request is parsed"
        return self.live.snapshot()

    def object_as_json(self) -> bytes:
        """Return how far the response is, as the object of the Responses dialect."""
        assert self.object is not None, "the dialect has objects"
        return self.object.as_json(self.live)

    def cancel_for_client(self) -> None:
        """End a response that is made in the background; do nothing after its end."""
        assert self.object is not None, "the dialect has objects"
        error = ResponseCancelled("the client has cancelled the response")
        if self.live is not None and self.live.cancel(error):
            self.object.is_cancelled = True

    # --- clients ---

    @property
    def clients(self) -> int:
        """Return the number of clients that read the response now."""
        return len(self._connections)

    @property
    def is_abandoned(self) -> bool:
        """True if every client has left, as far as can be known; in the background none has."""
        return not self.is_background and all(
            isinstance(connection, Connection) and connection.has_half_closed
            for connection in self._connections
        )

    @property
    def has_failed(self) -> bool:
        """True if there is no response, or one that ended with an error."""
        return self.recording.error is not None or self.recording.is_broken

    @property
    def is_running(self) -> bool:
        """True until the whole response is recorded."""
        return not self.recording.has_ended

    async def respond_to(
        self, request: web.Request, *, joined: str, select: Callable[[bytes], bytes]
    ) -> web.StreamResponse:
        """Respond to a client that is counted. Raises the refusal, or the error of a whole answer.

        `joined` and `select` are as for `follow`.
        """
        response = await follow(request, self.recording, joined=joined, select=select)
        if request.transport is not None:
            self.was_delivered = True
            if isinstance(request.protocol, Connection):
                request.protocol.on_reset = self._on_reset
        return response

    def _on_reset(self) -> None:
        """Note that a client has gone without reading all that was written to its socket."""
        self.was_delivered = False

    @contextlib.contextmanager
    def client(self, request: web.Request) -> Iterator[None]:
        """Count a client while the context is entered."""
        self._connections.add(request.protocol)
        self._stop_timer()
        try:
            yield
        finally:
            self._connections.discard(request.protocol)
            if not self._connections:
                self._on_no_client()

    def _on_no_client(self) -> None:
        if not self.is_running:
            self._keep_or_forget()
        elif self.is_background:
            pass  # its client comes back by the response's id
        elif self.linger and self.recording.is_complete:
            self._timer = self._pause.timer(self.linger, self.cancel)
        else:
            self.cancel()

    def _on_end(self, _task: asyncio.Task[None]) -> None:
        if self.is_running:  # the task was cancelled
            self.recording.fail(NodeDraining("the node is going away", retry_after=5))
        if self.object is not None:
            self.object.finish(self.recording)
        self._parsed.set()
        if not self._connections:
            self._keep_or_forget()

    def _keep_or_forget(self) -> None:
        """Keep a response that a client may ask for again; forget any other."""
        self._stop_timer()
        is_whole = self.recording.is_complete and not self.has_failed
        if self.is_background or (self.linger and is_whole):
            self._timer = self._pause.timer(self.linger, self._keeper.forget, self)
            self._keeper.keep_ended(self)
        else:
            self._keeper.forget(self)

    def _on_overflow(self) -> None:
        """Let no client join a response that is too large to be kept."""
        self.is_background = False
        if not self._connections:
            asyncio.get_running_loop().call_soon(self.cancel)

    # --- the end ---

    def cancel(self) -> None:
        """End the request, as at the departure of its only client."""
        self._keeper.forget(self)
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """End the request and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
