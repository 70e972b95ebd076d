"""Run the generations of one parsed request, and send their output to the client.

Nothing is sent before the model has begun every choice. So every refusal until then has its true
status, and the cache-hit header is known.

[front]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.dialects.base import Usage, rename_field
from mlx_worker.api.generation.choices import start_choices
from mlx_worker.api.generation.stream import OutputStream
from mlx_worker.api.middleware.auth import key_name
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
from mlx_worker.api.middleware.responses import event_stream_response
from mlx_worker.api.parsing.model_terms import places_of
from mlx_worker.errors import WorkerError
from mlx_worker.supervisor.fingerprint import prompting, weights_changed
from mlx_worker.supervisor.requests.output_buffer import OutputDelta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.dialects.base import Call, Reply
    from mlx_worker.api.generation.accounting import RequestAccounting
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.requests.generation import FinishInfo, Generation
    from mlx_worker.wire.messages import Started
    from mlx_worker.wire.request import ChatRequest


@dataclass(frozen=True, slots=True)
class _ActiveRequest:
    """A request whose choices the model has begun."""

    request: web.Request
    accounting: RequestAccounting
    writer: Reply
    generations: list[Generation]
    prompt: Usage
    headers: dict[str, str]
    fields: Mapping[str, str]

    def endings(self) -> list[FinishInfo]:
        endings = [generation.finish_info for generation in self.generations]
        assert all(endings), "every choice has ended"
        return [ending for ending in endings if ending]

    def usage(self) -> Usage:
        endings = self.endings()
        return replace(
            self.prompt,
            completion=sum(ending.completion_tokens for ending in endings),
            reasoning=sum(ending.reasoning_tokens for ending in endings),
        )


async def relay(
    request: web.Request,
    context: AppContext,
    model: ModelRuntime,
    call: Call,
    writer_for: Callable[[str], Reply],
    accounting: RequestAccounting,
) -> web.StreamResponse:
    """Run one request and respond to it. Raises the refusal where nothing was sent yet.

    `writer_for` returns the writer of the response, given the fingerprint of the model's process.
    """
    check_session(request)
    headers = _headers(request, model, call.warnings)
    accounting.accept(model, call.warnings)
    generations: list[Generation] = []
    try:
        generate = partial(
            context.node.client.generate,
            model,
            session=session_given(request) or "",
            request_id=headers[REQUEST_ID],
            key=key_name(request),
        )
        generations += await start_choices(generate, _checked_choices(call, model))
        accounting.queue(generations)
        # The choices of one chat read the same prompt, which is counted once.
        started = [await generation.started() for generation in generations][:: call.n]
        prompt = _prompt_usage(started)
        accounting.start(started[0], prompt)
        headers[CACHE_HIT] = "true" if started[0].cache_hit else "false"
        writer = writer_for(_common_fingerprint(generations, model))
        active = _ActiveRequest(
            request, accounting, writer, generations, prompt, headers, call.FIELDS
        )
        return await (_respond_streamed(active) if call.stream else _respond_whole(active))
    except WorkerError as error:
        rename_field(error, call.FIELDS)
        raise
    finally:
        for generation in generations:
            generation.cancel()


def _headers(request: web.Request, model: ModelRuntime, warnings: list[str]) -> dict[str, str]:
    headers = {
        REQUEST_ID: request_id(request),
        SESSION_ID: session_id(request),
        MODEL: model_id(model.config.id),
    }
    return headers | ({WARNINGS: warnings_text(warnings)} if warnings else {})


def _prompt_usage(started: list[Started]) -> Usage:
    return Usage(
        prompt=sum(choice.prompt_tokens for choice in started),
        cached=sum(choice.cached_tokens for choice in started),
    )


def _common_fingerprint(generations: list[Generation], model: ModelRuntime) -> str:
    """Return the fingerprint of all choices. Raises WeightsChanged where theirs differ.

    A choice that waited for a slot may have begun in a later process than the others.
    """
    first, *others = [generation.identity for generation in generations]
    assert first is not None, "a process has begun every choice"
    for other in others:
        if other is not None and other != first:
            raise weights_changed(model.config.id, first, other)
    return first.with_prompts(prompting(model.config))


def _checked_choices(call: Call, model: ModelRuntime) -> list[ChatRequest]:
    """Return the choices. Raises InvalidRequest where they could never run or wait all at once."""
    places_of(model).check(call.wide, call.field)
    call.check_size()
    return call.choices()


async def _respond_whole(active: _ActiveRequest) -> web.Response:
    # A choice that fails ends the wait for all.
    await asyncio.gather(*(generation.wait_finished() for generation in active.generations))
    outputs = [
        generation.drain_output() or OutputDelta("", []) for generation in active.generations
    ]
    choices = list(zip(outputs, active.endings(), strict=True))
    body = active.writer.whole(choices, active.usage())
    response = web.Response(body=body, content_type="application/json", headers=active.headers)
    active.accounting.respond(response.status)
    active.accounting.finish()
    return response


async def _respond_streamed(active: _ActiveRequest) -> web.StreamResponse:
    request, writer, accounting = active.request, active.writer, active.accounting
    response = event_stream_response(request, active.headers)
    stream_writer, transport = await response.prepare(request), request.transport
    assert stream_writer is not None, "no other response was sent"
    if transport is None:
        raise ConnectionResetError("the client has left")
    accounting.respond(response.status)
    await response.write(writer.opening(active.prompt))
    stream = OutputStream(response, stream_writer, transport, writer, active.generations)
    try:
        with within_stream(request, response):
            await stream.run()
    except WorkerError as error:
        # The status is sent already: only the stream itself can carry the error.
        rename_field(error, active.fields)
        accounting.finish(error)
        response.force_close()
        await response.write_eof(stream.take_unsent() + writer.broken(error))
    else:
        unsent = stream.take_unsent()  # formatted before the end: writers keep a state
        await response.write_eof(unsent + writer.closing(active.endings(), active.usage()))
        accounting.finish()
    return response
