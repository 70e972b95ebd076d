"""Counts of requests and their outcomes, and the status that follows from them.

Each model has a RequestStats, and so has the node. The functions of this module and `HealthMonitor`
use the node's. Only the standard library and the error family are imported; safe under threads.
Times are milliseconds since the epoch, as floats; latencies are milliseconds. Ages are measured on
a clock that is never set back. [front]
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Literal, Self

from mlx_worker.errors import HealthError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "HealthMonitor",
    "Status",
    "decrement_requests_in_flight",
    "get_metrics",
    "get_node_health",
    "increment_requests_in_flight",
    "record_cache_hit",
    "record_cache_miss",
    "record_request",
]

Status = Literal["initializing", "healthy", "degraded", "unhealthy", "offline"]

RECENT = 1000
"""Number of latest requests that the error rate covers."""

LEAST_SAMPLES = 10
"""Requests before the error rate counts: after one failed request the rate would be 1."""

MOST_IN_A_ROW = 5
"""Consecutive failures after which the status is unhealthy; after two it is degraded."""

FORGIVEN = 30.0
"""Seconds without a failure after which an unhealthy node or model counts as ready again.

Otherwise a router that avoids a failing node would never send the requests that show its recovery.
"""


class RequestStats:
    """Counts of one model or of the node."""

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._recent_failures = 0
        self._last_failure = 0.0
        self._consecutive_failures = 0
        self._requests = 0
        self._mean = 0.0
        self._in_flight = 0
        self._hits = 0
        self._misses: Counter[str] = Counter()

    def request_started(self) -> None:
        """Count a request that is now in flight."""
        with self._lock:
            self._in_flight += 1

    def request_ended(self) -> None:
        """Count a request that is no longer in flight; the number never falls below zero."""
        with self._lock:
            self._in_flight = max(0, self._in_flight - 1)

    def record(self, success: bool, latency: float) -> None:
        """Count one request that ended after `latency` ms. Raises HealthError for no latency."""
        if not (math.isfinite(latency) and latency >= 0):
            raise HealthError(f"latency cannot be {latency} ms")
        with self._lock:
            self._requests += 1
            # Step by step: the sum of two latencies may be more than a float holds.
            self._mean += (latency - self._mean) / self._requests
            if len(self._recent) == RECENT:
                self._recent_failures -= not self._recent[0]
            self._recent.append(success)
            if success:
                self._consecutive_failures = 0
            else:
                self._recent_failures += 1
                self._consecutive_failures += 1
                self._last_failure = self._clock()

    def record_hit(self) -> None:
        """Count a request whose system prompt was in the prompt cache."""
        with self._lock:
            self._hits += 1

    def record_miss(self, reason: str = "new") -> None:
        """Count a request whose system prompt was not in the prompt cache, with the reason."""
        with self._lock:
            self._misses[reason] += 1

    def health(self) -> dict[str, Any]:
        """Return `lastCheck`, `consecutiveFailures`, `avgResponseTime` and `errorRate`."""
        with self._lock:
            return {
                "lastCheck": self._now() * 1000,
                "consecutiveFailures": self._consecutive_failures,
                "avgResponseTime": self._mean,
                "errorRate": self._error_rate(),
            }

    def metrics(self) -> dict[str, Any]:
        """Return `requestsInFlight`, `totalRequests`, `cacheHitRate` and `avgLatency`."""
        with self._lock:
            return {
                "requestsInFlight": self._in_flight,
                "totalRequests": self._requests,
                "cacheHitRate": self._hit_rate(),
                "avgLatency": self._mean,
            }

    @property
    def hit_rate(self) -> float:
        """Return the share of hits among all look-ups, 0 to 1."""
        with self._lock:
            return self._hit_rate()

    @property
    def hits(self) -> int:
        """Return the number of hits."""
        with self._lock:
            return self._hits

    @property
    def misses(self) -> dict[str, int]:
        """Return the number of misses by reason."""
        with self._lock:
            return dict(self._misses)

    @property
    def failing(self) -> bool:
        """Return True if the status is unhealthy and the last failure is recent."""
        return self.status == "unhealthy" and self._clock() - self._last_failure < FORGIVEN

    @property
    def status(self) -> Status:
        """Return the status by the counts alone."""
        with self._lock:
            if self._consecutive_failures >= MOST_IN_A_ROW or self._fails_mostly():
                return "unhealthy"
            return "degraded" if self._consecutive_failures >= 2 else "healthy"  # noqa: PLR2004

    @property
    def reason(self) -> str:
        """Return why the word is not healthy; "" where the word is."""
        if self.status == "healthy":
            return ""
        with self._lock:
            if self._consecutive_failures >= 2:  # noqa: PLR2004
                return f"the last {self._consecutive_failures} requests failed"
            recent = len(self._recent)
            return f"{self._recent_failures} of the last {recent} requests failed"

    def _fails_mostly(self) -> bool:
        return len(self._recent) >= LEAST_SAMPLES and self._error_rate() > 0.5  # noqa: PLR2004

    def _error_rate(self) -> float:
        return self._recent_failures / len(self._recent) if self._recent else 0.0

    def _hit_rate(self) -> float:
        looked_up = self._hits + self._misses.total()
        return self._hits / looked_up if looked_up else 0.0


def combined_status(own: Status, models: Iterable[Status]) -> Status:
    """Return the node's status, from its own counts and the status of its models.

    Models that are offline because no request has needed them yet do not count.
    """
    words = [word for word in models if word != "offline"]
    if not words:
        return "healthy" if own == "healthy" else own
    if all(word == "unhealthy" for word in words):
        return "unhealthy"
    if all(word in ("initializing", "unhealthy") for word in words):
        return "initializing"
    if any(word in ("initializing", "unhealthy") for word in words) and own == "healthy":
        return "degraded"
    return own


_node = RequestStats()


def node_request_stats() -> RequestStats:
    """Return the request counts of this process's node."""
    return _node


def get_node_health() -> dict[str, Any]:
    """Return `lastCheck`, `consecutiveFailures`, `avgResponseTime` and `errorRate` of the node."""
    return _node.health()


def get_metrics() -> dict[str, Any]:
    """Return the node's metrics."""
    return _node.metrics()


def record_request(success: bool, latency: float) -> None:
    """Count one request that ended after `latency` ms. Raises HealthError for no latency."""
    _node.record(success, latency)


def increment_requests_in_flight() -> None:
    """Count a request that is now in flight."""
    _node.request_started()


def decrement_requests_in_flight() -> None:
    """Count a request that is no longer in flight; the number never falls below zero."""
    _node.request_ended()


def record_cache_hit() -> None:
    """Count a request whose system prompt was in the prompt cache."""
    _node.record_hit()


def record_cache_miss() -> None:
    """Count a request whose system prompt was not in the prompt cache."""
    _node.record_miss()


class HealthMonitor:
    """The node's request counts as an object; there is only one."""

    _instance: Self | None = None
    _guard = threading.Lock()

    def __new__(cls) -> Self:
        """Return the only instance."""
        with cls._guard:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
            return cls._instance

    def get_health(self) -> dict[str, Any]:
        """See `get_node_health`."""
        return get_node_health()

    def get_metrics(self) -> dict[str, Any]:
        """See `get_metrics`."""
        return get_metrics()

    def record_success(self, latency: float) -> None:
        """Count a request that was answered after `latency` ms."""
        record_request(success=True, latency=latency)

    def record_failure(self, latency: float) -> None:
        """Count a request that failed after `latency` ms."""
        record_request(success=False, latency=latency)
