"""The stats, the words that follow from it, and the module's functions."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker import health
from mlx_worker.health import FORGIVEN, MOST_IN_A_ROW, RECENT, RequestStats, Status, combined_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def module_anew() -> Any:
    assert health.__file__ is not None
    spec = importlib.util.spec_from_file_location("fresh_health", health.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fresh() -> Any:
    """The module anew: the node's stats is one a process, and a test wants its own."""
    return module_anew()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def stats_of(outcomes: str) -> RequestStats:
    """A stats of these outcomes: + answered, - failed."""
    stats = RequestStats()
    for outcome in outcomes:
        stats.record(outcome == "+", 1.0)
    return stats


def together(count: int, work: Callable[[], object]) -> None:
    """The same work in so many threads, all beginning at one moment."""
    barrier = threading.Barrier(count)

    def one(runs: threading.Event) -> None:
        runs.set()
        barrier.wait()
        work()

    threads = []
    for _ in range(count):
        runs = threading.Event()
        threads.append(threading.Thread(target=one, args=(runs,)))
        threads[-1].start()
        runs.wait()  # CPython 3.11 fails where two threads install coverage's tracer at once
    for thread in threads:
        thread.join()


# --- counting -----------------------------------------------------------------------------


def test_a_new_record_has_seen_nothing() -> None:
    stats = RequestStats(now=lambda: 1_700_000_000.25)
    assert stats.health() == {
        "lastCheck": 1_700_000_000_250.0,
        "consecutiveFailures": 0,
        "avgResponseTime": 0.0,
        "errorRate": 0.0,
    }
    assert stats.metrics() == {
        "requestsInFlight": 0,
        "totalRequests": 0,
        "cacheHitRate": 0.0,
        "avgLatency": 0.0,
    }


def test_the_last_check_is_now_in_milliseconds_and_a_float() -> None:
    """Cut to an int, it would lie before the moment it happened."""
    before = time.time() * 1000
    checked = RequestStats().health()["lastCheck"]
    assert isinstance(checked, float)
    assert before <= checked <= time.time() * 1000


def test_requests_are_in_flight_between_open_and_close() -> None:
    stats = RequestStats()
    stats.request_started()
    stats.request_started()
    assert stats.metrics()["requestsInFlight"] == 2
    stats.request_ended()
    assert stats.metrics()["requestsInFlight"] == 1


def test_requests_in_flight_are_never_below_zero() -> None:
    stats = RequestStats()
    stats.request_ended()
    stats.request_ended()
    assert stats.metrics()["requestsInFlight"] == 0
    stats.request_started()
    assert stats.metrics()["requestsInFlight"] == 1


def test_means_count_failures_too() -> None:
    stats = RequestStats()
    stats.record(success=True, latency=100.0)
    stats.record(success=False, latency=50.0)
    assert stats.metrics()["avgLatency"] == 75.0
    assert stats.health()["avgResponseTime"] == 75.0
    assert stats.metrics()["totalRequests"] == 2


def test_a_request_may_take_no_time() -> None:
    stats = RequestStats()
    stats.record(success=True, latency=0)
    assert stats.metrics()["totalRequests"] == 1


@pytest.mark.parametrize("latency", [-1, -1e-9, float("-inf"), float("nan")])
@pytest.mark.parametrize("success", [True, False])
def test_a_latency_that_cannot_be_is_refused_and_not_counted(success: bool, latency: float) -> None:
    stats = stats_of("--")
    before = stats.metrics(), stats.health()["consecutiveFailures"]
    with pytest.raises(ValueError, match="latency"):
        stats.record(success, latency)
    assert (stats.metrics(), stats.health()["consecutiveFailures"]) == before


@pytest.mark.parametrize(
    ("outcomes", "failures"), [("", 0), ("-", 1), ("+--", 2), ("--+", 0), ("--+---", 3)]
)
def test_a_success_resets_the_consecutive_failures(outcomes: str, failures: int) -> None:
    assert stats_of(outcomes).health()["consecutiveFailures"] == failures


@pytest.mark.parametrize(
    ("outcomes", "rate"), [("+", 0.0), ("-", 1.0), ("+-", 0.5), ("+++-", 0.25)]
)
def test_the_error_rate_is_the_share_of_failures(outcomes: str, rate: float) -> None:
    assert stats_of(outcomes).health()["errorRate"] == rate


def test_old_trouble_is_forgotten() -> None:
    stats = stats_of("-" * RECENT + "+" * (RECENT - 1))
    assert stats.health()["errorRate"] == 1 / RECENT
    stats.record(success=True, latency=1.0)
    assert stats.health()["errorRate"] == 0.0
    stats.record(success=False, latency=1.0)
    assert stats.health()["errorRate"] == 1 / RECENT


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_wall_clock_that_is_set_does_not_change_how_long_a_failure_counts(jump: float) -> None:
    wall, elapsed = [1e9], [100.0]
    stats = RequestStats(now=lambda: wall[0], clock=lambda: elapsed[0])
    for _ in range(MOST_IN_A_ROW):
        stats.record(success=False, latency=1.0)
    wall[0] += jump
    elapsed[0] += FORGIVEN - 0.1
    assert stats.failing
    elapsed[0] += 0.1
    assert not stats.failing


def test_the_hit_rate_is_the_share_of_hits() -> None:
    stats = RequestStats()
    for _ in range(3):
        stats.record_hit()
    stats.record_miss()
    assert stats.hit_rate == stats.metrics()["cacheHitRate"] == 0.75


def test_large_sums_stay_exact_and_are_json_numbers() -> None:
    """No field of 32 bits, nor a float where a count is meant."""
    stats = RequestStats()
    for _ in range(3):
        stats.record(success=True, latency=2.0**40)
    read = json.loads(json.dumps(stats.metrics()))
    assert read["avgLatency"] == 2.0**40
    assert (type(read["totalRequests"]), read["totalRequests"]) == (int, 3)
    assert type(read["requestsInFlight"]) is int


# --- words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "word"),
    [
        ("", "healthy"),
        ("+" * 10, "healthy"),
        ("+" * 10 + "-", "healthy"),
        ("+" * 10 + "--", "degraded"),
        ("+" * 10 + "----", "degraded"),
        ("+" * 10 + "-----", "unhealthy"),
        ("+" * 10 + "-----+", "healthy"),
        ("-+", "healthy"),
        ("--+", "healthy"),
        ("-", "healthy"),
        ("--", "degraded"),
        ("-+" * 4 + "-", "healthy"),
        ("-+" * 4 + "--+", "unhealthy"),
        ("-+" * 5 + "-", "unhealthy"),
        ("--++", "healthy"),
        ("++--", "degraded"),
    ],
)
def test_the_word_follows_from_failures_in_a_row_and_from_their_share(
    outcomes: str, word: Status
) -> None:
    """Unhealthy: five in a row, or more than half of at least ten; degraded: two in a row."""
    assert stats_of(outcomes).status == word


@pytest.mark.parametrize(
    ("own", "models", "word"),
    [
        pytest.param("healthy", [], "healthy", id="no models"),
        pytest.param("healthy", ["healthy", "healthy"], "healthy", id="all well"),
        pytest.param("healthy", ["unhealthy"], "unhealthy", id="the only one down"),
        pytest.param("healthy", ["unhealthy", "unhealthy"], "unhealthy", id="all down"),
        pytest.param("healthy", ["healthy", "unhealthy"], "degraded", id="some down"),
        pytest.param("healthy", ["initializing"], "initializing", id="loading"),
        pytest.param("healthy", ["initializing", "unhealthy"], "initializing", id="one may come"),
        pytest.param("healthy", ["healthy", "initializing"], "degraded", id="one still to come"),
        pytest.param("healthy", ["offline"], "healthy", id="nobody asked yet"),
        pytest.param("healthy", ["offline", "healthy"], "healthy", id="one not asked for"),
        pytest.param("healthy", ["offline", "unhealthy"], "unhealthy", id="the asked one down"),
        pytest.param("degraded", ["healthy"], "degraded", id="own trouble"),
        pytest.param("degraded", ["healthy", "unhealthy"], "degraded", id="both troubles"),
        pytest.param("unhealthy", ["healthy", "healthy"], "unhealthy", id="own failures"),
        pytest.param("unhealthy", ["healthy", "unhealthy"], "unhealthy", id="the worse word"),
        pytest.param("unhealthy", [], "unhealthy", id="own failures without models"),
    ],
)
def test_the_nodes_word_is_made_of_its_own_and_its_models(
    own: Status, models: list[Status], word: Status
) -> None:
    assert combined_status(own, models) == word


# --- the module's functions ---------------------------------------------------------------


def test_the_functions_and_the_monitor_share_their_counts(fresh: Any) -> None:
    fresh.record_request(True, 10.0)
    fresh.HealthMonitor().record_failure(latency=30.0)
    fresh.increment_requests_in_flight()
    fresh.record_cache_hit()
    fresh.record_cache_miss()
    expected = {
        "requestsInFlight": 1,
        "totalRequests": 2,
        "cacheHitRate": 0.5,
        "avgLatency": 20.0,
    }
    assert fresh.get_metrics() == fresh.HealthMonitor().get_metrics() == expected
    assert fresh.node_request_stats().metrics() == expected
    said = fresh.HealthMonitor().get_health()
    assert said.pop("lastCheck") <= time.time() * 1000
    assert said == {
        "consecutiveFailures": 1,
        "avgResponseTime": 20.0,
        "errorRate": 0.5,
    }
    assert set(fresh.get_node_health()) == {*said, "lastCheck"}


def test_a_success_by_the_monitor_resets_the_failures(fresh: Any) -> None:
    monitor = fresh.HealthMonitor()
    for _ in range(5):
        monitor.record_failure(latency=1.0)
    assert monitor.get_health()["consecutiveFailures"] == 5
    monitor.record_success(latency=1.0)
    assert fresh.get_node_health()["consecutiveFailures"] == 0


def test_the_module_counts_nothing_below_zero(fresh: Any) -> None:
    fresh.decrement_requests_in_flight()
    assert fresh.get_metrics()["requestsInFlight"] == 0


@pytest.mark.parametrize("latency", [-0.001, float("nan")])
def test_the_module_refuses_a_latency_that_cannot_be(fresh: Any, latency: float) -> None:
    monitor = fresh.HealthMonitor()
    with pytest.raises(ValueError, match="latency"):
        fresh.record_request(True, latency)
    with pytest.raises(ValueError, match="latency"):
        monitor.record_success(latency=latency)
    with pytest.raises(ValueError, match="latency"):
        monitor.record_failure(latency=latency)
    assert fresh.get_metrics()["totalRequests"] == 0


def test_answers_are_the_callers_to_change(fresh: Any) -> None:
    fresh.get_metrics()["totalRequests"] = 99
    fresh.get_node_health()["errorRate"] = 1
    assert fresh.get_metrics()["totalRequests"] == 0
    assert fresh.get_node_health()["errorRate"] == 0


# --- threads ------------------------------------------------------------------------------


def test_no_count_is_lost_between_eight_threads(fresh: Any, eager_threads: None) -> None:
    def work() -> None:
        for i in range(5000):
            fresh.increment_requests_in_flight()
            fresh.record_request(i % 4 != 0, 2.0)
            if i % 5 == 0:
                fresh.record_cache_hit()
            else:
                fresh.record_cache_miss()
            if i % 2 == 0:
                fresh.decrement_requests_in_flight()

    together(8, work)
    assert fresh.get_metrics() == {
        "requestsInFlight": 8 * 2500,
        "totalRequests": 8 * 5000,
        "cacheHitRate": 0.2,
        "avgLatency": 2.0,
    }


def ask_for_monitor(module: Any, seen: list[Any]) -> None:
    seen.append(module.HealthMonitor())


def test_there_is_one_monitor_however_many_threads_ask_first(eager_threads: None) -> None:
    for _ in range(50):
        module = module_anew()
        seen: list[Any] = []
        together(8, partial(ask_for_monitor, module, seen))
        assert len(seen) == 8
        assert len({id(monitor) for monitor in seen}) == 1


# --- figures that JSON can say, reasons ---------------------------------------------------


def test_the_mean_of_the_longest_latencies_is_finite() -> None:
    stats = RequestStats()
    for _ in range(2):
        stats.record(success=True, latency=1e308)
    assert stats.health()["avgResponseTime"] == pytest.approx(1e308)


def test_the_modules_health_has_exactly_its_four_keys(fresh: Any) -> None:
    keys = {"lastCheck", "consecutiveFailures", "avgResponseTime", "errorRate"}
    assert set(fresh.get_node_health()) == keys
    assert issubclass(fresh.HealthError, ValueError)


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ("-", ""),
        ("+--", "the last 2 requests failed"),
        ("-+" * 5 + "-", "6 of the last 11 requests failed"),
    ],
)
def test_a_word_that_is_not_healthy_has_a_reason(outcomes: str, reason: str) -> None:
    assert stats_of(outcomes).reason == reason
