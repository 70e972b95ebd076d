"""Begin a streamed response before the model has begun it, and tell its client of progress.

Many clients end a request that gets no bytes for some time, and their libraries then send it again,
while the model is loading or the request waits in the queue. So after `first_byte_timeout` without
a response, status, headers and the dialect's first event are sent, and further events as long as
the model makes progress: bytes of weights loaded, prompt tokens read, tokens and ends of requests
that run before this one. Without any progress nothing is sent, and the request ends by its
deadline, with its true status.

A status that is sent cannot be taken back: the refusal of a request whose response has begun is the
dialect's error event.

[front]
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs

from mlx_worker.api.dialects.base import Usage
from mlx_worker.api.generation.stream import framed
from mlx_worker.api.middleware.half_close import within_stream
from mlx_worker.api.middleware.request_ids import CACHE_HIT
from mlx_worker.api.middleware.responses import JoinedHeadResponse, event_stream_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiohttp import web
    from aiohttp.abc import AbstractStreamWriter

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.dialects.base import ResponseWriter
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.process.pause import Timer

UNKNOWN_USAGE: Final = Usage(prompt=0, cached=0)
"""What a stream says at its start of a prompt that no process has read."""

CHECKS: Final = 5
"""How often within `first_byte_timeout` the model is asked for progress that it owes."""


@dataclass(frozen=True, slots=True)
class BegunResponse:
    """A response whose status and headers are sent, with the two ways to its client."""

    response: web.StreamResponse
    stream_writer: AbstractStreamWriter
    transport: asyncio.WriteTransport

    def write(self, data: bytes) -> None:
        """Write a part of the body past aiohttp's writer, unless the client is gone."""
        if not self.transport.is_closing():
            is_chunked = hdrs.TRANSFER_ENCODING in self.response.headers
            self.transport.write(framed(data, is_chunked=is_chunked))


async def begin_response(request: web.Request, headers: Mapping[str, str]) -> BegunResponse:
    """Prepare an event stream, whose headers go with the body's first part, the caller's next step.

    Raises ConnectionResetError.
    """
    response = event_stream_response(request, headers, JoinedHeadResponse)
    stream_writer, transport = await response.prepare(request), request.transport
    assert stream_writer is not None, "no other response was sent"
    if transport is None:
        raise ConnectionResetError("the client has left")
    return BegunResponse(response, stream_writer, transport)


def cache_hit_comment(headers: Mapping[str, str]) -> bytes:
    """Return the comment that stands for a header that was not known in time."""
    return f": {CACHE_HIT}: {headers[CACHE_HIT]}\n\n".encode()


@dataclass(frozen=True, slots=True)
class EarlyPlan:
    """What a response says if it begins early; `on_begin` gets the status that was sent."""

    context: AppContext
    model: ModelRuntime
    writer: ResponseWriter
    headers: Mapping[str, str]
    on_begin: Callable[[int], None]


class EarlyStart:
    """One request that may get the begin of its response while it waits.

    `begun` is the response once it has begun early.
    """

    def __init__(self, request: web.Request) -> None:
        self.begun: BegunResponse | None = None
        self._request = request
        self._writer: ResponseWriter | None = None
        self._progress = 0
        self._timer: Timer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._probes = ExitStack()

    def has_begun(self) -> bool:
        """Return True if the client has the status of the response."""
        return self.begun is not None

    @asynccontextmanager
    async def watch(self, plan: EarlyPlan) -> AsyncIterator[None]:
        """Begin the response as planned if the block, which waits for the model, takes long."""
        timeout = plan.context.first_byte_timeout
        self._progress = plan.model.dispatcher.progress
        self._check_after(timeout, plan)
        try:
            yield
        finally:
            if self._opening is not None:
                with suppress(ConnectionError):
                    await self._opening
            assert self._timer is not None, "the first check was planned"
            self._timer.cancel()
            self._probes.close()

    async def refuse(self, error: WorkerError) -> web.StreamResponse:
        """End a response that has begun early with an error event."""
        assert self.begun is not None, "the response has begun"
        assert self._writer is not None, "the response has a first event"
        response = self.begun.response
        response.force_close()
        await response.write_eof(self._writer.error(error))
        return response

    def _check_after(self, seconds: float, plan: EarlyPlan) -> None:
        self._timer = plan.context.node.pause.timer(seconds, self._check, plan)

    def _check(self, plan: EarlyPlan) -> None:
        """Tell the client of progress since the last check, if there was any."""
        timeout, progress = plan.context.first_byte_timeout, plan.model.dispatcher.progress
        if progress == self._progress:
            self._check_after(timeout / CHECKS, plan)
            return
        self._progress = progress
        if self.begun is None:
            self._opening = asyncio.create_task(self._begin(plan))
            return
        # A client with unread bytes needs no more of them.
        if not self.begun.transport.get_write_buffer_size():
            self.begun.write(plan.writer.keepalive())
        self._check_after(timeout, plan)

    async def _begin(self, plan: EarlyPlan) -> None:
        begun = await begin_response(self._request, plan.headers)
        plan.on_begin(begun.response.status)
        await begun.response.write(plan.writer.start(UNKNOWN_USAGE))
        self.begun, self._writer = begun, plan.writer
        self._probes.enter_context(within_stream(self._request, begun.response))
        self._check_after(plan.context.first_byte_timeout, plan)
