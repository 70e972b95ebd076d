"""The last hour in samples, for the page's charts: taken from counts that are there anyway.

One every ten seconds, whether or not anybody looks: it costs some microseconds, and who comes after
the trouble wants to see what was before. [front]
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec

from mlx_worker.histogram import quantile
from mlx_worker.supervisor.ring_buffer import Ring

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mlx_worker.api.metrics.counters import Traffic
    from mlx_worker.histogram import Cumulative
    from mlx_worker.supervisor.model_status import ModelStatus
    from mlx_worker.supervisor.node import Node

EVERY: Final = 10.0
"""Seconds between two samples."""

KEPT: Final = 360
"""Samples: an hour."""


class ModelSample(msgspec.Struct, frozen=True, rename="camel"):
    """One model between two samples.

    `first_token_*`: seconds to the first token, by the histogram's buckets; None where none came.
    `running` and `queued` are as of the sample, `resident_bytes` too (0 without a process).
    """

    tokens_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    running: int
    queued: int
    resident_bytes: int


class Sample(msgspec.Struct, frozen=True):
    """All models at a moment, in ms since the epoch."""

    at: float
    models: dict[str, ModelSample]


@dataclass(frozen=True, slots=True)
class Counts:
    """What only grows: one model's tokens, and how often a first token took how long."""

    tokens: int
    first_token: Cumulative


class History:
    """The samples; a context in which they are taken. On the event loop's thread."""

    def __init__(
        self, node: Node, traffic: Traffic, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.samples: Ring[Sample] = Ring(KEPT)
        self._node = node
        self._traffic = traffic
        self._clock = clock
        self._since = clock()
        self._before: dict[str, Counts] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._tick)

    def _tick(self) -> None:
        self.take()
        self._arm()

    def take(self) -> None:
        """A sample of what has come since the last one."""
        now = self._clock()
        seconds, self._since = now - self._since, now
        statuses = {id_: model.status() for id_, model in self._node.models.items()}
        counts = {id_: self._counts(id_, status) for id_, status in statuses.items()}
        models = {
            id_: _sample(status, self._before.get(id_), counts[id_], seconds)
            for id_, status in statuses.items()
        }
        self._before = counts
        self.samples.add(Sample(time.time() * 1000, models))

    def _counts(self, id_: str, model: ModelStatus) -> Counts:
        first_token = tuple(self._traffic.flows[id_].first_token.cumulative())
        return Counts(model.generated_tokens, first_token)


def _sample(model: ModelStatus, before: Counts | None, now: Counts, seconds: float) -> ModelSample:
    first = now.first_token
    tokens = now.tokens
    if before is not None:
        pairs = zip(first, before.first_token, strict=True)
        first = tuple((bound, n - earlier) for (bound, n), (_, earlier) in pairs)
        tokens -= before.tokens
    return ModelSample(
        tokens_per_second=tokens / seconds if seconds > 0 else 0.0,
        first_token_p50=quantile(first, 0.5),
        first_token_p95=quantile(first, 0.95),
        running=model.running,
        queued=model.queued,
        resident_bytes=model.child.resident_bytes or 0,
    )
