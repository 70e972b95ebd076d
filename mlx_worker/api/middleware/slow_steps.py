"""Count the steps of requests that block the event loop for too long, by path.

A step is what a handler does between two awaits. Nothing else runs on the loop meanwhile, neither
another stream nor `/health`, so a step has a budget. A step over the budget is counted by the
route's path, and reported as an event that names the path and never words of the request.

[front]
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from aiohttp.typedefs import Handler, Middleware

STEP_BUDGET: Final = 0.05
"""Seconds that a step may take."""

EVENT_INTERVAL: Final = 60.0
"""Seconds after an event without another event for the same path; the metric counts all steps."""

CONNECTION: Final = "connection"
"""The path of bytes that are parsed before their path is known."""
OTHER: Final = "other"
"""The path of work that belongs to no request: messages of children, timers."""
NO_PATH: Final = "none"
"""The path of requests for a path that this node does not have."""


class SlowSteps:
    """Counts how often each path blocked the loop longer than the budget.

    `on_slow_step` gets a path and seconds, at most once in `EVENT_INTERVAL` for each path.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.counts: Counter[str] = Counter()
        self.clock = clock
        self.on_slow_step: Callable[[str, float], None] = lambda _path, _seconds: None
        self._reported_at: dict[str, float] = {}

    def record(self, path: str, seconds: float) -> None:
        """Count a step that took longer than the budget."""
        if seconds <= STEP_BUDGET:
            return
        self.counts[path] += 1
        now = self.clock()
        if now - self._reported_at.get(path, -EVENT_INTERVAL) >= EVENT_INTERVAL:
            self._reported_at[path] = now
            self.on_slow_step(path, seconds)

    def timed(
        self, request: web.Request, coroutine: Coroutine[Any, Any, web.StreamResponse]
    ) -> Awaitable[web.StreamResponse]:
        """Return what awaits a coroutine, and records its steps under the path of a request."""
        return _TimedCoroutine(coroutine, self.clock, partial(self.record, route_template(request)))

    @property
    def middleware(self) -> Middleware:
        """Return the middleware that times the steps of requests; it has to be the outermost."""

        @web.middleware
        async def time_steps(request: web.Request, handler: Handler) -> web.StreamResponse:
            coroutine = cast("Coroutine[Any, Any, web.StreamResponse]", handler(request))
            return await self.timed(request, coroutine)

        return time_steps


SLOW_STEPS: web.AppKey[SlowSteps] = web.AppKey("slow_steps", SlowSteps)


def route_template(request: web.Request) -> str:
    """Return the path of a request's route as the table has it, e.g. "/models/{id}"."""
    resource = request.match_info.route.resource
    if resource is None:
        return NO_PATH
    return "/" + resource.canonical.removeprefix("/{v1}").lstrip("/")


class _TimedCoroutine:
    """Awaits a coroutine, and records how many seconds each of its steps takes."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, web.StreamResponse],
        clock: Callable[[], float],
        record: Callable[[float], None],
    ) -> None:
        self._coroutine = coroutine
        self._clock = clock
        self._record = record

    def __await__(self) -> Generator[Any, Any, web.StreamResponse]:
        step: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            began = self._clock()
            try:
                awaited = step()
            except StopIteration as end:
                return cast("web.StreamResponse", end.value)
            finally:
                self._record(self._clock() - began)
            try:
                step = partial(self._coroutine.send, (yield awaited))
            except BaseException as error:  # noqa: BLE001  (also a cancellation: the coroutine's)
                step = partial(self._coroutine.throw, error)
