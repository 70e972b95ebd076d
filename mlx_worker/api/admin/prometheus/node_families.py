"""Expose the figures of the node: version, status, spares, event loop, log.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from mlx_worker import __version__
from mlx_worker.api.admin import reports
from mlx_worker.api.metrics.families import NO_LABELS, counter, gauge, histogram, state_set
from mlx_worker.health import Status
from mlx_worker.logs import DROPPED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext


def node_families(context: AppContext) -> Iterator[Metric]:
    """Yield version, status, spares, event loop and log of the node."""
    node = context.node
    yield gauge(
        "build", "The version of mlx-worker that runs: always 1.", ("version",), {(__version__,): 1}
    )
    yield state_set(
        "node_status",
        "Status of the node, as reported by /health.",
        NO_LABELS,
        get_args(Status),
        {NO_LABELS: reports.node_status(context)},
    )
    yield gauge(
        "draining",
        "1 while the node drains before it stops.",
        NO_LABELS,
        {NO_LABELS: node.draining},
    )
    yield gauge(
        "spares_waiting",
        "Spare processes that wait for a model.",
        NO_LABELS,
        {NO_LABELS: len(node.spare_pool.waiting)},
    )
    yield histogram(
        "event_loop_lag_seconds",
        "How late the front's event loop runs what is due.",
        NO_LABELS,
        {NO_LABELS: context.loop_lag.histogram},
    )
    slow_steps = context.loop_lag.slow_steps.counts.items()
    yield counter(
        "loop_held",
        "Steps that blocked the front's event loop longer than 50 ms, by path.",
        ("path",),
        {(path,): count for path, count in slow_steps},
    )
    yield counter(
        "log_lines_dropped",
        "Log lines that were dropped because the log's reader was too slow.",
        NO_LABELS,
        {NO_LABELS: DROPPED.total},
    )
