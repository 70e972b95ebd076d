"""Which path held the event loop up: every step of every request is timed. [front]

A step is what a handler does between two waits. Nothing else on the loop runs meanwhile, neither
another stream nor `/health`, so a step has a budget; what breaks it is counted by the path that was
asked, and told of as an event, with the route's path and never with words of the request.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from aiohttp.typedefs import Handler, Middleware

STEP_BUDGET: Final = 0.05
"""Seconds that a step may take."""

EVENT_INTERVAL: Final = 60.0
"""Seconds after an event in which there is none of the same path: a metric counts them all."""

CONNECTION: Final = "connection"
"""The path of bytes that are taken apart before it is known what they ask for."""
OTHER: Final = "other"
"""The path of what belongs to no request: children's messages, timers, a pause of the process."""
NO_PATH: Final = "none"
"""The path of requests for what is not there."""


class SlowSteps:
    """How often each path held the loop longer than the budget.

    `tell` gets a path and seconds, at most once in `QUIET` for each path.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.counts: Counter[str] = Counter()
        self.clock = clock
        self.on_slow_step: Callable[[str, float], None] = lambda _path, _seconds: None
        self._reported_at: dict[str, float] = {}

    def record(self, path: str, seconds: float) -> None:
        """Count a step of so many seconds where it was too long."""
        if seconds <= STEP_BUDGET:
            return
        self.counts[path] += 1
        now = self.clock()
        if now - self._reported_at.get(path, -EVENT_INTERVAL) >= EVENT_INTERVAL:
            self._reported_at[path] = now
            self.on_slow_step(path, seconds)

    @property
    def middleware(self) -> Middleware:
        """The middleware that times the steps of requests; the first one, so that it sees all."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            work = cast("Coroutine[Any, Any, web.StreamResponse]", handler(request))
            return await _TimedSteps(
                work, self.clock, partial(self.record, route_template(request))
            )

        return middleware


def route_template(request: web.Request) -> str:
    """Return the path of a request's route as the table has it, e.g. "/models/{id}"."""
    resource = request.match_info.route.resource
    if resource is None:
        return NO_PATH
    return "/" + resource.canonical.removeprefix("/{v1}").lstrip("/")


class _TimedSteps:
    """A coroutine whose steps are timed."""

    def __init__(
        self,
        work: Coroutine[Any, Any, web.StreamResponse],
        clock: Callable[[], float],
        record: Callable[[float], None],
    ) -> None:
        self._work = work
        self._clock = clock
        self._record = record

    def __await__(self) -> Generator[Any, Any, web.StreamResponse]:
        step: Callable[[], Any] = partial(self._work.send, None)
        while True:
            began = self._clock()
            try:
                waits_for = step()
            except StopIteration as end:
                return cast("web.StreamResponse", end.value)
            finally:
                self._record(self._clock() - began)
            try:
                step = partial(self._work.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001  (a cancel above all: it is the work's)
                step = partial(self._work.throw, error)
