"""Send the output of running generations to the client: as one body, or as a stream.

[front]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.dialects.base import rename_field
from mlx_worker.api.generation.early_start import begin_response, cache_hit_comment
from mlx_worker.api.generation.stream import OutputStream
from mlx_worker.api.middleware.half_close import within_stream
from mlx_worker.errors import WorkerError
from mlx_worker.supervisor.requests.output_buffer import OutputDelta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.api.dialects.base import ResponseWriter, Usage
    from mlx_worker.api.generation.accounting import RequestAccounting
    from mlx_worker.api.generation.early_start import BegunResponse
    from mlx_worker.supervisor.requests.generation import FinishInfo, Generation


@dataclass(frozen=True, slots=True)
class ActiveRequest:
    """A request whose choices the model has begun. `prompt` counts the tokens of all prompts.

    `field_names` are the dialect's names for fields that a model's process names in errors. `begun`
    is the response if it has begun before the model had.
    """

    request: web.Request
    accounting: RequestAccounting
    writer: ResponseWriter
    generations: list[Generation]
    prompt: Usage
    headers: dict[str, str]
    field_names: Mapping[str, str]
    begun: BegunResponse | None

    def endings(self) -> list[FinishInfo]:
        """Return how each choice has ended."""
        endings = [generation.finish_info for generation in self.generations]
        assert all(endings), "every choice has ended"
        return [ending for ending in endings if ending]

    def usage(self) -> Usage:
        """Return the tokens of the prompts and of all choices, which have ended."""
        endings = self.endings()
        return replace(
            self.prompt,
            completion=sum(ending.completion_tokens for ending in endings),
            reasoning=sum(ending.reasoning_tokens for ending in endings),
            accepted_prediction=sum(ending.accepted_prediction_tokens for ending in endings),
            rejected_prediction=sum(ending.rejected_prediction_tokens for ending in endings),
        )


async def respond_whole(active: ActiveRequest) -> web.Response:
    """Respond with one body once every choice has ended. Raises the error of one that failed."""
    # A choice that fails ends the wait for all.
    await asyncio.gather(*(generation.wait_finished() for generation in active.generations))
    outputs = [
        generation.output.drain() or OutputDelta([], []) for generation in active.generations
    ]
    choices = list(zip(outputs, active.endings(), strict=True))
    body = active.writer.full_response(choices, active.usage())
    response = web.Response(body=body, content_type="application/json", headers=active.headers)
    active.accounting.respond(response.status)
    active.accounting.finish()
    return response


async def respond_streamed(active: ActiveRequest) -> web.StreamResponse:
    """Respond with events as the choices' output arrives; an error becomes the last event."""
    request, writer, accounting = active.request, active.writer, active.accounting
    begun = active.begun or await begin_response(request, active.headers)
    response = begun.response
    accounting.respond(response.status)
    if active.begun is None:
        await response.write(writer.start(active.prompt))
    else:
        begun.write(cache_hit_comment(active.headers))
    stream = OutputStream(
        response, begun.stream_writer, begun.transport, writer, active.generations
    )
    try:
        with within_stream(request, response):
            await stream.run()
    except WorkerError as error:
        # The status is sent already: only the stream itself can carry the error.
        rename_field(error, active.field_names)
        accounting.finish(error)
        response.force_close()
        await response.write_eof(stream.drain_unsent() + writer.error(error))
    else:
        unsent = stream.drain_unsent()  # formatted before the end: writers keep a state
        await response.write_eof(unsent + writer.finish(active.endings(), active.usage()))
        accounting.finish()
    return response
