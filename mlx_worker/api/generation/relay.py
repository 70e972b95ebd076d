"""Run the generations of one parsed request, and send their output to the client.

Nothing is sent before the model has begun every choice. So every refusal until then has its true
status, and the cache-hit header is known.

[front]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo, Usage, rename_field
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
from mlx_worker.api.parsing.model_table import request_capacity
from mlx_worker.errors import WorkerError
from mlx_worker.supervisor.fingerprint import prompting, weights_changed
from mlx_worker.supervisor.requests.generation import Piece

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_worker.api.dialects.base import Dialect, ResponseWriter
    from mlx_worker.api.generation.accounting import RequestAccounting
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.requests.generation import Ending, Generation
    from mlx_worker.wire.messages import Started
    from mlx_worker.wire.request import ChatRequest

R = TypeVar("R", bound=GenerationRequest)


@dataclass(frozen=True, slots=True)
class _ActiveRequest:
    """A request whose choices the model has begun."""

    request: web.Request
    accounting: RequestAccounting
    writer: ResponseWriter
    generations: list[Generation]
    prompt: Usage
    headers: dict[str, str]
    field_names: Mapping[str, str]

    def endings(self) -> list[Ending]:
        endings = [generation.ending for generation in self.generations]
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
    model: ModelRuntime,
    dialect: Dialect[R],
    generation_request: R,
    echoes: Sequence[str],
    accounting: RequestAccounting,
) -> web.StreamResponse:
    """Run one request and respond to it. Raises the refusal where nothing was sent yet.

    `echoes` are the texts of the prompts that the response repeats.
    """
    context = request.app[CONTEXT]
    created = context.now()
    check_session(request)
    headers = _headers(request, model, generation_request.warnings)
    accounting.accept(model, generation_request.warnings)
    generations: list[Generation] = []
    try:
        generate = partial(
            context.node.client.generate,
            model,
            session=session_given(request) or "",
            request_id=headers[REQUEST_ID],
            key=key_name(request),
        )
        generations += await start_choices(generate, _checked_choices(generation_request, model))
        accounting.queue(generations)
        # The choices of one chat read the same prompt, which is counted once.
        started = [await generation.started() for generation in generations]
        started = started[:: generation_request.n]
        prompt = _prompt_usage(started)
        accounting.start(started[0], prompt)
        headers[CACHE_HIT] = "true" if started[0].cache_hit else "false"
        info = ResponseInfo(
            model=_response_name(model, generation_request.model),
            created=created,
            fingerprint=_common_fingerprint(generations, model),
            echoes=echoes,
            reasoning_summaries=context.reasoning_summaries,
        )
        writer = dialect.writer(generation_request, info)
        active = _ActiveRequest(
            request, accounting, writer, generations, prompt, headers, dialect.field_names
        )
        respond = _respond_streamed if generation_request.stream else _respond_whole
        return await respond(active)
    except WorkerError as error:
        rename_field(error, dialect.field_names)
        raise
    finally:
        for generation in generations:
            generation.leave()


def _headers(request: web.Request, model: ModelRuntime, warnings: list[str]) -> dict[str, str]:
    headers = {
        REQUEST_ID: request_id(request),
        SESSION_ID: session_id(request),
        MODEL: model_id(model.config.id),
    }
    return headers | ({WARNINGS: warnings_text(warnings)} if warnings else {})


def _response_name(model: ModelRuntime, requested: str | None) -> str:
    """Return the model's name in responses: its id where the request has no name of the model."""
    config = model.config
    return requested if requested is not None and requested in config.aliases else config.id


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


def _checked_choices(
    generation_request: GenerationRequest, model: ModelRuntime
) -> list[ChatRequest]:
    """Return the choices. Raises InvalidRequest where they could never run or wait all at once."""
    request_capacity(model).check_choices(
        generation_request.choice_count, generation_request.choices_field
    )
    generation_request.check_size()
    return generation_request.split_choices()


async def _respond_whole(active: _ActiveRequest) -> web.Response:
    # A choice that fails ends the wait for all.
    await asyncio.gather(*(generation.heard_out() for generation in active.generations))
    outputs = [generation.take() or Piece("", []) for generation in active.generations]
    choices = list(zip(outputs, active.endings(), strict=True))
    body = active.writer.full_response(choices, active.usage())
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
    await response.write(writer.start(active.prompt))
    stream = OutputStream(response, stream_writer, transport, writer, active.generations)
    try:
        with within_stream(request, response):
            await stream.run()
    except WorkerError as error:
        # The status is sent already: only the stream itself can carry the error.
        rename_field(error, active.field_names)
        accounting.finish(error)
        response.force_close()
        await response.write_eof(stream.take_unsent() + writer.error(error))
    else:
        unsent = stream.take_unsent()  # formatted before the end: writers keep a state
        await response.write_eof(unsent + writer.finish(active.endings(), active.usage()))
        accounting.finish()
    return response
