"""Know every recorded request, running or just ended, and find which of them an attempt repeats.

A client finds nothing but requests of its own API key. A request with an `Idempotency-Key` is found
by the key alone. Any other is found by its content, and one that no client reads comes first: of
several equal requests each gets its own answer back.

[front]
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from mlx_worker.api.generation.lingering.recorded_request import RecordedRequest
from mlx_worker.errors import CannotJoin, IdempotencyKeyReused
from mlx_worker.supervisor.process.pause import PauseDetector

if TYPE_CHECKING:
    from types import TracebackType

    from mlx_worker.api.generation.lingering.attempt import Attempt, AttemptContent
    from mlx_worker.api.generation.lingering.recorded_request import Respond
    from mlx_worker.config.schema import ServerConfig

MAX_RECORDED: Final = 16 * 1024 * 1024
"""Bytes of one response that is kept whole: a stream of about 60,000 tokens."""

MAX_ENDED: Final = 64 * 1024 * 1024
"""Bytes of all responses that have ended and are kept."""

PAUSE_TICK: Final = 1.0
"""Seconds between two checks whether the process did not run for a while."""


class RecordedRequests:
    """The recorded requests of a node; a context that ends those that run.

    `max_recorded` bytes of one response are kept, and `max_ended` of all that have ended.
    """

    def __init__(self, server: ServerConfig) -> None:
        self.server = server
        self.max_recorded = MAX_RECORDED
        self.max_ended = MAX_ENDED
        self._pause = PauseDetector(asyncio.get_running_loop(), PAUSE_TICK)
        self._all: set[RecordedRequest] = set()
        self._by_key: dict[tuple[str, str], RecordedRequest] = {}
        self._by_content: defaultdict[AttemptContent, list[RecordedRequest]] = defaultdict(list)
        self._by_response_id: dict[tuple[str, str], RecordedRequest] = {}
        self._ended: dict[RecordedRequest, int] = {}
        self._ended_bytes = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._pause.close()
        await asyncio.gather(*(recorded.close() for recorded in self._all))

    @property
    def linger_background(self) -> float:
        """Return the seconds that a response made in the background is kept after its end."""
        return self.server.linger_background

    @property
    def lingering(self) -> int:
        """Return the number of requests that run without a client."""
        return sum(recorded.is_running and not recorded.clients for recorded in self._all)

    @property
    def kept_bytes(self) -> int:
        """Return the bytes of all responses that are recorded or kept."""
        return sum(recorded.recording.size for recorded in self._all)

    def find(self, attempt: Attempt) -> RecordedRequest | None:
        """Return the request that an attempt joins; None if the attempt is a new request.

        Raises IdempotencyKeyReused, and CannotJoin for a response that is too large to be kept.
        """
        if attempt.idempotency_key:
            return self._find_by_key(attempt)
        known = [
            recorded
            for recorded in self._by_content.get(attempt.content, ())
            if recorded.recording.is_complete and not recorded.has_failed
        ]
        for recorded in known:
            is_missed = recorded.is_abandoned and not recorded.was_delivered
            if is_missed and attempt.joins_abandoned:
                return recorded
        return known[-1] if known and attempt.joins_any else None

    def _find_by_key(self, attempt: Attempt) -> RecordedRequest | None:
        key = attempt.idempotency_key
        recorded = self._by_key.get((attempt.content.key, key))
        if recorded is None or recorded.has_failed:
            return None
        first, repeated = recorded.attempt.content, attempt.content
        if (first.dialect, first.digest) != (repeated.dialect, repeated.digest):
            raise IdempotencyKeyReused(
                "Idempotency-Key: this key was sent with another request; a repetition has the"
                " same path and the same body",
                param="Idempotency-Key",
            )
        if not recorded.recording.is_complete:
            raise CannotJoin(
                f"the response of the first request has more than {self.max_recorded} bytes and"
                " is not kept; another client still reads the response",
            )
        return recorded

    def find_response(self, key: str, response_id: str) -> RecordedRequest | None:
        """Return the request of a Responses object that a client of this API key may read."""
        recorded = self._by_response_id.get((key, response_id))
        return recorded if recorded is not None and recorded.recording.is_complete else None

    def start(
        self,
        attempt: Attempt,
        request: web.Request,
        respond: Respond,
    ) -> RecordedRequest:
        """Respond to a new request in a task of its own."""
        recorded = RecordedRequest(request, attempt, self, self._pause, self.max_recorded)
        self._all.add(recorded)
        if attempt.idempotency_key:
            self._by_key[attempt.content.key, attempt.idempotency_key] = recorded
        else:
            self._by_content[attempt.content].append(recorded)
        if recorded.response_id:
            self._by_response_id[attempt.content.key, recorded.response_id] = recorded
        recorded.start(respond)
        return recorded

    # --- the keeper of recorded requests ---

    def forget(self, recorded: RecordedRequest) -> None:
        """Let no client join the request from now on."""
        content, key = recorded.attempt.content, recorded.attempt.idempotency_key
        if self._by_key.get((content.key, key)) is recorded:
            del self._by_key[content.key, key]
        if recorded in (alike := self._by_content.get(content, [])):
            alike.remove(recorded)
            if not alike:
                del self._by_content[content]
        if recorded.response_id:
            self._by_response_id.pop((content.key, recorded.response_id), None)
        self._ended_bytes -= self._ended.pop(recorded, 0)
        if not recorded.is_running:
            self._all.discard(recorded)

    def keep_ended(self, recorded: RecordedRequest) -> None:
        """Keep a response that has ended, and forget the oldest ones that are too many."""
        self._ended_bytes += recorded.recording.size - self._ended.pop(recorded, 0)
        self._ended[recorded] = recorded.recording.size
        while self._ended_bytes > self.max_ended:
            self.forget(next(iter(self._ended)))


RECORDED_REQUESTS: web.AppKey[RecordedRequests] = web.AppKey("recorded_requests", RecordedRequests)
