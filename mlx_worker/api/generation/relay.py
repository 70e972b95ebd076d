"""The one way of a generation: from a parsed call to the last byte its client gets.

Nothing is sent before the child has said `Started`, so that everything refused until then has its
true status, and the cache-hit header is known. [front]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.dialects.base import Usage
from mlx_worker.api.generation.choices import begin
from mlx_worker.api.middleware.auth import key_name
from mlx_worker.api.middleware.event_stream import EventStream, streamed_response
from mlx_worker.api.middleware.half_close import within_stream
from mlx_worker.api.middleware.request_ids import (
    CACHE_HIT,
    MODEL,
    REQUEST_ID,
    SESSION_ID,
    WARNINGS,
    check_session,
    model_id,
    request_id,
    session_given,
    session_id,
    warnings_text,
)
from mlx_worker.api.parsing.model_table import request_capacity
from mlx_worker.errors import WorkerError
from mlx_worker.supervisor.fingerprint import prompting, weights_changed
from mlx_worker.supervisor.requests.generation import Piece

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.api.context import Front
    from mlx_worker.api.dialects.base import GenerationRequest, ResponseWriter
    from mlx_worker.api.generation.accounting import Books
    from mlx_worker.supervisor.node import Served
    from mlx_worker.supervisor.requests.generation import Ending, Generation
    from mlx_worker.wire.messages import (
        ChatRequest,
        Started,
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """What the two ways of answering share."""

    request: web.Request
    writer: ResponseWriter
    generations: list[Generation]
    prompt: Usage
    headers: dict[str, str]

    def endings(self) -> list[Ending]:
        endings = [it.ending for it in self.generations]
        assert all(endings), "every choice was heard to its end"
        return [ending for ending in endings if ending]

    def usage(self) -> Usage:
        endings = self.endings()
        return replace(
            self.prompt,
            completion=sum(it.completion_tokens for it in endings),
            reasoning=sum(it.reasoning_tokens for it in endings),
        )


async def relay(
    request: web.Request,
    front: Front,
    served: Served,
    call: GenerationRequest,
    writer_for: Callable[[str], ResponseWriter],
    books: Books,
) -> web.StreamResponse:
    """Run one call and answer it. Raises the refusal where nothing was sent yet.

    `writer_for` returns the writer of the response, given the fingerprint of the model's process.
    """
    check_session(request)
    headers = {
        REQUEST_ID: request_id(request),
        SESSION_ID: session_id(request),
        MODEL: model_id(served.config.id),
    }
    if call.warnings:
        headers[WARNINGS] = warnings_text(call.warnings)
        books.warned(call.warnings)
    books.opened(served)
    generations: list[Generation] = []
    try:
        generate = partial(
            front.node.generate,
            served,
            session=session_given(request) or "",
            request_id=headers[REQUEST_ID],
            key=key_name(request),
        )
        generations += await begin(generate, _fitting(call, served))
        books.taken_on(generations)
        # A chat's choices read the same prompt, which is counted once.
        started = [await generation.started() for generation in generations][:: call.n]
        read = _read(started)
        books.began(started[0], read)
        headers[CACHE_HIT] = "true" if started[0].cache_hit else "false"
        writer = writer_for(_fingerprint_of(generations, served))
        way = _Way(request, writer, generations, read, headers)
        return await (_streamed(way, books) if call.stream else _whole(way, books))
    finally:
        for generation in generations:
            generation.leave()


def _read(started: list[Started]) -> Usage:
    return Usage(
        prompt=sum(it.prompt_tokens for it in started),
        cached=sum(it.cached_tokens for it in started),
    )


def _fingerprint_of(generations: list[Generation], served: Served) -> str:
    """Return the fingerprint of all choices. Raises WeightsChanged where theirs differ.

    A choice that waited for a place may have begun in a later process than its neighbours.
    """
    first, *others = [it.identity for it in generations]
    assert first is not None, "a process has begun every choice"
    for other in others:
        if other is not None and other != first:
            raise weights_changed(served.config.id, first, other)
    return first.with_prompts(prompting(served.config))


def _fitting(call: GenerationRequest, served: Served) -> list[ChatRequest]:
    """The choices, which all have to be running or in line at once."""
    request_capacity(served).check_choices(call.choice_count, call.choices_field)
    call.check_size()
    return call.split_choices()


async def _whole(way: _Way, books: Books) -> web.Response:
    # One that fails ends the wait for all.
    await asyncio.gather(*(it.heard_out() for it in way.generations))
    said = [it.take() or Piece("", []) for it in way.generations]
    body = way.writer.full_response(list(zip(said, way.endings(), strict=True)), way.usage())
    response = web.Response(body=body, content_type="application/json", headers=way.headers)
    books.answered(response.status)
    books.ended(None)
    return response


async def _streamed(way: _Way, books: Books) -> web.StreamResponse:
    response = streamed_response(way.request, way.headers)
    writer, transport = await response.prepare(way.request), way.request.transport
    assert writer is not None, "nothing else has answered"
    if transport is None:
        raise ConnectionResetError("the client has left")
    books.answered(response.status)
    await response.write(way.writer.start(way.prompt))
    stream = EventStream(response, writer, transport, way.writer, way.generations)
    try:
        with within_stream(way.request, response):
            await stream.run()
    except WorkerError as error:
        # The status is sent; only the stream itself can still say it.
        books.ended(error)
        response.force_close()
        await response.write_eof(stream.take() + way.writer.error(error))
    else:
        await response.write_eof(stream.take() + way.writer.finish(way.endings(), way.usage()))
        books.ended(None)
    return response
