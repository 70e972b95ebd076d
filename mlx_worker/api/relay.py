"""The one way of a generation: from a parsed call to the last byte its client gets.

The ledger opens when the call is known to be well formed and closes exactly once, in `finally`,
whoever ended it. Nothing is sent before the child has said `Started`, so that everything refused
until then has its true status, and the cache-hit header is known. [front]
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.dialect import Usage
from mlx_worker.api.headers import (
    CACHE_HIT,
    REQUEST_ID,
    SESSION_ID,
    request_id,
    session_given,
    session_id,
)
from mlx_worker.errors import ChildLost, InferenceError, WorkerError
from mlx_worker.supervisor.generation import Piece

if TYPE_CHECKING:
    from mlx_worker.api.dialect import Call, Reply
    from mlx_worker.api.front import Front
    from mlx_worker.health import Ledger
    from mlx_worker.supervisor.generation import Generation
    from mlx_worker.supervisor.node import Served
    from mlx_worker.wire.messages import Started, TokenLogprobs

log = logging.getLogger(__name__)

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class _Books:
    """One request's entry in the model's ledger and in the node's."""

    def __init__(self, *ledgers: Ledger) -> None:
        self._ledgers = ledgers
        self._since = time.perf_counter()
        self.outcome = "left"
        for ledger in ledgers:
            ledger.open()

    def looked_up(self, *, hit: bool) -> None:
        for ledger in self._ledgers:
            ledger.hit() if hit else ledger.miss()

    def ended(self, error: WorkerError | None) -> None:
        """What came of it. A refusal is no failure of the model: nothing was tried."""
        tried = error is None or isinstance(error, ChildLost | InferenceError)
        tried = tried or (error is not None and type(error) is WorkerError)
        self.outcome = "ok" if error is None else "failed" if tried else "refused"

    def close(self) -> float:
        """Close the entry; returns the latency in ms."""
        latency = (time.perf_counter() - self._since) * 1000
        for ledger in self._ledgers:
            ledger.close()
            if self.outcome in ("ok", "failed"):
                ledger.record(self.outcome == "ok", latency)
        return latency


@dataclass(frozen=True, slots=True)
class _Way:
    """What the two ways of answering share."""

    request: web.Request
    reply: Reply
    generation: Generation
    started: Started
    headers: dict[str, str]

    def usage(self) -> Usage:
        ending = self.generation.ending
        completion = ending.completion_tokens if ending else len(self.generation.tokens)
        return Usage(self.started.prompt_tokens, self.started.cached_tokens, completion)


async def relay(
    request: web.Request, front: Front, served: Served, call: Call, reply: Reply
) -> web.StreamResponse:
    """Run one call and answer it. Raises the refusal where nothing was sent yet."""
    headers = {REQUEST_ID: request_id(request), SESSION_ID: session_id(request)}
    books = _Books(front.ledgers[served.config.id], front.ledger)
    generation = None
    try:
        generation = await front.node.generate(served, call.chat, session_given(request) or "")
        started = await generation.started()
        books.looked_up(hit=started.cache_hit)
        headers[CACHE_HIT] = "true" if started.cache_hit else "false"
        way = _Way(request, reply, generation, started, headers)
        response = await (_streamed(way, books) if call.stream else _whole(way))
        if books.outcome == "left":
            books.ended(None)
    except WorkerError as error:
        books.ended(error)
        raise
    finally:
        if generation is not None:
            generation.leave()
        _log(request, headers, served, generation, books)
    return response


async def _whole(way: _Way) -> web.Response:
    text: list[str] = []
    logprobs: list[TokenLogprobs] = []
    while (piece := await way.generation.take()) is not None:
        text.append(piece.text)
        logprobs += piece.logprobs
    ending = way.generation.ending
    assert ending is not None
    whole = Piece("".join(text), logprobs)
    body = way.reply.whole(whole, ending.finish, way.usage())
    return web.Response(body=body, content_type="application/json", headers=way.headers)


async def _streamed(way: _Way, books: _Books) -> web.StreamResponse:
    response = web.StreamResponse(headers=STREAM_HEADERS | way.headers)
    await response.prepare(way.request)
    await response.write(way.reply.opening())
    try:
        while (piece := await way.generation.take()) is not None:
            await response.write(way.reply.piece(piece))
    except WorkerError as error:
        # The status is sent; only the stream itself can still say it.
        books.ended(error)
        response.force_close()
        await response.write(way.reply.broken(error))
    else:
        ending = way.generation.ending
        assert ending is not None
        await response.write(way.reply.closing(ending.finish, way.usage()))
    await response.write_eof()
    return response


def _log(
    request: web.Request,
    headers: dict[str, str],
    served: Served,
    generation: Generation | None,
    books: _Books,
) -> None:
    latency = books.close()
    log.info(
        "%s %s model=%s session=%s request=%s outcome=%s cache_hit=%s tokens=%d ms=%.1f",
        request.method,
        request.path,
        served.config.id,
        headers[SESSION_ID],
        headers[REQUEST_ID],
        books.outcome,
        headers.get(CACHE_HIT, "-"),
        len(generation.tokens) if generation else 0,
        latency,
    )
