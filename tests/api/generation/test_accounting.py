"""A request's accounting: states in their order, counted once however the request ends."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from mlx_worker.api.context import AppContext
from mlx_worker.api.dialects.base import Usage
from mlx_worker.api.generation.accounting import RequestAccounting
from mlx_worker.api.metrics.counters import RequestLabels, RequestMetrics
from mlx_worker.api.metrics.loop_lag import EventLoopLagMonitor
from mlx_worker.api.middleware import auth
from mlx_worker.api.middleware.slow_steps import SlowSteps
from mlx_worker.errors import (
    CacheError,
    ChildLost,
    QueueFull,
    RequestCancelled,
    RequestNotFound,
    RequestTimedOut,
    Unavailable,
    WeightsChanged,
    WorkerError,
)
from mlx_worker.health import RequestStats
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.wire.messages import Started
from tests.loop_clock import LoopClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.node import Node

MODEL = cast("ModelRuntime", SimpleNamespace(config=SimpleNamespace(id="m")))


@pytest.fixture
def context() -> AppContext:
    return AppContext(
        node=cast("Node", None),
        node_stats=RequestStats(),
        model_stats=defaultdict(RequestStats),
        request_metrics=RequestMetrics(),
        loop_lag=EventLoopLagMonitor(SlowSteps(), PauseDetector(LoopClock(), 1.0)),
        tracer=None,
        reasoning_summaries="asked",
        addresses=(),
    )


def accounting_in(context: AppContext) -> RequestAccounting:
    request = make_mocked_request("POST", "/v1/chat/completions")
    request[auth._KEY_NAME] = "-"
    return RequestAccounting(request, context, "chat")


def in_flight(context: AppContext) -> int:
    return int(context.node_stats.metrics()["requestsInFlight"])


STEPS: list[Callable[[RequestAccounting], None]] = [
    lambda accounting: accounting.accept(MODEL, []),
    lambda accounting: accounting.queue([]),
    lambda accounting: accounting.start(Started(1, 5, 0, cache_hit=False), Usage(5, 0)),
    lambda accounting: accounting.respond(200),
    lambda accounting: accounting.finish(),
]


def end_after(number: int, error: Exception, context: AppContext) -> None:
    """Account for a request that ends with this error after `number` steps."""
    with accounting_in(context) as accounting:
        for step in STEPS[:number]:
            step(accounting)
        raise error


async def test_accounting_all_states_in_order_is_a_success(context: AppContext) -> None:
    with accounting_in(context) as accounting:
        for step in STEPS:
            step(accounting)
        assert in_flight(context) == 1
    assert in_flight(context) == 0
    assert context.request_metrics.requests == {RequestLabels("m", "chat", "success", ""): 1}
    assert context.request_metrics.by_model["m"].prompt_tokens == 5


@pytest.mark.parametrize("number", range(len(STEPS)))
async def test_accounting_state_out_of_order_is_refused(context: AppContext, number: int) -> None:
    for other, step in enumerate(STEPS):
        accounting = accounting_in(context)
        for before in STEPS[:number]:
            before(accounting)
        if other != number:
            with pytest.raises(AssertionError):
                step(accounting)


@pytest.mark.parametrize("number", range(len(STEPS)))
async def test_accounting_client_leaves_is_counted_once(context: AppContext, number: int) -> None:
    with pytest.raises(ConnectionResetError):
        end_after(number, ConnectionResetError(), context)
    model = "m" if number else ""
    assert context.request_metrics.requests == {RequestLabels(model, "chat", "cancelled", ""): 1}
    assert in_flight(context) == 0


@pytest.mark.parametrize(
    ("error", "outcome", "counted"),
    [
        (QueueFull("full"), "refused", 0),
        (Unavailable("no process"), "refused", 0),
        (ChildLost("lost"), "failed", 1),
        (CacheError("not prefilled"), "failed", 1),
        (RequestTimedOut("too long"), "failed", 0),
        (WeightsChanged("other weights"), "failed", 0),
    ],
)
async def test_accounting_error_has_its_outcome_and_status(
    context: AppContext, error: WorkerError, outcome: str, counted: int
) -> None:
    with pytest.raises(type(error)):
        end_after(1, error, context)
    ((labels, count),) = context.request_metrics.requests.items()
    assert (labels.outcome, labels.error, count) == (outcome, error.code, 1)
    assert context.node_stats.metrics()["totalRequests"] == counted


# --- the table of requests ------------------------------------------------------------------


async def test_accounting_keeps_a_row_while_and_after_it_runs(context: AppContext) -> None:
    table = context.request_table
    with accounting_in(context) as accounting:
        (row,) = table.rows().live
        assert (row.model, row.state, row.prompt_tokens, row.status) == ("", "waiting", 0, None)
        for step in STEPS:
            step(accounting)
        (row,) = table.rows().live
        assert (row.model, row.prompt_tokens, row.status) == ("m", 5, 200)
        assert table.rows().recent == []
    assert table.rows().live == []
    (ended,) = table.rows().recent
    assert (ended.id, ended.state, ended.error) == (row.id, "finished", None)
    assert ended.seconds >= row.seconds


async def test_accounting_error_is_in_the_row(context: AppContext) -> None:
    with pytest.raises(QueueFull):
        end_after(1, QueueFull("full"), context)
    (row,) = context.request_table.rows().recent
    assert (row.state, row.status, row.error) == ("failed", 429, "queue_full")


async def waits(context: AppContext, began: asyncio.Event) -> None:
    with accounting_in(context):
        began.set()
        await asyncio.Event().wait()


async def test_accounting_cancelled_by_operator_raises_its_error(context: AppContext) -> None:
    began = asyncio.Event()
    task = asyncio.create_task(waits(context, began))
    await began.wait()
    (row,) = context.request_table.rows().live
    for _ in range(2):  # an impatient operator
        context.request_table.cancel(row.id)
    with pytest.raises(RequestCancelled):
        await task
    (ended,) = context.request_table.rows().recent
    assert (ended.state, ended.error, ended.status) == ("cancelled", "cancelled_by_operator", 500)
    with pytest.raises(RequestNotFound):
        context.request_table.cancel(row.id)


async def test_accounting_client_leaves_while_operator_cancels(context: AppContext) -> None:
    began = asyncio.Event()
    task = asyncio.create_task(waits(context, began))
    await began.wait()
    (row,) = context.request_table.rows().live
    context.request_table.cancel(row.id)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (ended,) = context.request_table.rows().recent
    assert (ended.state, ended.error) == ("cancelled", None)
