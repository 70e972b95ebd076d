"""Serve generations: one endpoint function for all dialects.

A request is read, parsed and given to its model. Nothing is sent before the model has begun every
choice, or a stream has waited for that for too long (`early_start`). So every refusal until then
has its true status, and the cache-hit header is known.

[front]
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo, Usage, rename_field
from mlx_worker.api.dialects.session_fields import conversation_of
from mlx_worker.api.generation.accounting import RequestAccounting
from mlx_worker.api.generation.early_start import EarlyPlan, EarlyStart
from mlx_worker.api.generation.lingering.serving import serve
from mlx_worker.api.generation.relay import ActiveRequest, respond_streamed, respond_whole
from mlx_worker.api.middleware.auth import key_name
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.middleware.request_ids import (
    CACHE_HIT,
    REQUEST_ID,
    check_session,
    client_session,
    note_body_session,
    parting_header,
    response_headers,
)
from mlx_worker.api.parsing.body_kinds import generation_body
from mlx_worker.api.parsing.model_table import NodeModels, request_capacity
from mlx_worker.api.parsing.parser import parse_body
from mlx_worker.api.request_record import RECORDER
from mlx_worker.errors import WorkerError
from mlx_worker.supervisor.fingerprint import prompting, weights_changed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aiohttp import web

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.dialects.base import Dialect, Prompt
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.node import Node
    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.wire.messages import Started
    from mlx_worker.wire.request import ChatRequest

R = TypeVar("R", bound=GenerationRequest)


async def generate(dialect: Dialect[R], request: web.Request) -> web.StreamResponse:
    """Serve a generation in a dialect. Raises the refusal where nothing was sent yet."""
    body = await read_body(request)
    return await serve(request, dialect.name, body, partial(_respond, dialect, body))


async def _respond(dialect: Dialect[R], body: bytes, request: web.Request) -> web.StreamResponse:
    """Generate the response of a request, which may be a recording's stand-in.

    A refusal after an early start becomes an event of the stream.
    """
    early = EarlyStart(request)
    try:
        return await _generate(dialect, body, request, early)
    except WorkerError as error:
        if not early.has_begun():
            raise
        return await early.refuse(error)


async def _generate(
    dialect: Dialect[R], body: bytes, request: web.Request, early: EarlyStart
) -> web.StreamResponse:
    context = request.app[CONTEXT]
    with RequestAccounting(request, context, dialect.name) as accounting:
        models = NodeModels(context.node)
        parsed = await parse_body(request, body, generation_body(dialect), models)
        model = models.find(parsed.model)
        info = await _response_info(context, model, parsed)
        check_session(request)
        note_body_session(request, parsed.session)
        dropped = parsed.dropped_lines
        headers = response_headers(request, model.config.id, parsed.warnings, dropped)
        accounting.accept(model, parsed.warnings, dropped)
        session, key = client_session(request), key_name(request)
        info = _tell_recorder(request, parsed, info)
        submit = partial(
            context.node.client.generate,
            model,
            session="" if session is None else session.id,
            conversation=conversation_of(session, key),
            request_id=headers[REQUEST_ID],
            key=key,
            is_patient=early.has_begun,
        )
        writer = dialect.writer(parsed, info)
        is_early = parsed.stream and context.first_byte_timeout > 0
        plan = EarlyPlan(context, model, writer, headers, accounting.respond_early)
        generations: list[Generation] = []
        try:
            async with early.watch(plan) if is_early else nullcontext():
                generations += await _submit_choices(submit, _checked_choices(parsed, model))
                accounting.queue(generations)
                started = [await generation.started() for generation in generations]
            # The choices of one chat read the same prompt, which is counted once.
            started = started[:: parsed.n]
            prompt = _prompt_usage(started)
            accounting.start(started[0], prompt)
            headers[CACHE_HIT] = "true" if started[0].cache_hit else "false"
            writer.identify(_common_fingerprint(generations, model))
            headers |= parting_header(request, prompt.parting)
            active = ActiveRequest(
                request,
                accounting,
                writer,
                generations,
                prompt,
                headers,
                dialect.field_names,
                early.begun,
            )
            return await (respond_streamed(active) if parsed.stream else respond_whole(active))
        except WorkerError as error:
            rename_field(error, dialect.field_names)
            raise
        finally:
            for generation in generations:
                generation.cancel()


# --- before the model has begun -----------------------------------------------------------


async def _response_info(
    context: AppContext, model: ModelRuntime, parsed: GenerationRequest
) -> ResponseInfo:
    """Return what is known of a response before its model has begun."""
    return ResponseInfo(
        model=_name_in_response(model, parsed.model),
        created=context.now(),
        fingerprint=None,  # until a process has begun the answer
        echoes=[await _prompt_text(context.node, model, prompt) for prompt in parsed.echoed],
        reasoning_summaries=context.reasoning_summaries,
    )


def _tell_recorder(
    request: web.Request, parsed: GenerationRequest, info: ResponseInfo
) -> ResponseInfo:
    """Tell what records the response, if anything does, and return `info` with its id."""
    if (recorder := request.get(RECORDER)) is None:
        return info
    info = replace(info, response_id=recorder.response_id)
    recorder.on_parsed(parsed, info)
    return info


async def _prompt_text(node: Node, model: ModelRuntime, prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    answer = await node.client.detokenize(model, prompt)
    return msgspec.json.decode(answer.text, type=str)


def _checked_choices(parsed: GenerationRequest, model: ModelRuntime) -> list[ChatRequest]:
    """Return the choices. Raises InvalidRequest where they could never run or wait all at once."""
    request_capacity(model).check_choices(parsed.choice_count, parsed.choices_field)
    parsed.check_size()
    return parsed.split_choices()


async def _submit_choices(
    submit: Callable[[ChatRequest], Coroutine[Any, Any, Generation]],
    choices: list[ChatRequest],
) -> list[Generation]:
    """Return a generation for each choice. Raises the first refusal, and then leaves none running.

    All ask for slots at once, so that a queue that is too short for all of them refuses before any
    has begun.
    """
    if len(choices) == 1:
        return [await submit(choices[0])]
    tasks = [asyncio.create_task(submit(choice)) for choice in choices]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.add_done_callback(_cancel_generation)
            task.cancel()
        raise


def _cancel_generation(task: asyncio.Task[Generation]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().cancel()


# --- after the model has begun ------------------------------------------------------------


def _prompt_usage(started: list[Started]) -> Usage:
    return Usage(
        prompt=sum(choice.prompt_tokens for choice in started),
        cached=sum(choice.cached_tokens for choice in started),
        parting=started[0].parting,
        disk=sum(choice.disk_tokens for choice in started),
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


def _name_in_response(model: ModelRuntime, requested: str | None) -> str:
    """Return the model's name in responses: its id where the request has no name of the model."""
    config = model.config
    return requested if requested is not None and requested in config.aliases else config.id
