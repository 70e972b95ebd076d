"""Write docs/reference/metrics.md: every family that `/metrics` exposes, with type and labels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, StateSetMetricFamily

from mlx_worker.api.admin.prometheus.render import _NodeCollector
from mlx_worker.api.context import CONTEXT
from mlx_worker.app import build_app
from mlx_worker.config.load import parse_config

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

_BEGINNING: Final = """\
# Metrics

Written by `python -m tests.tools.generated` from the metrics of a node that has done nothing.

`GET /metrics` answers in Prometheus' text format, or in OpenMetrics where `Accept` asks for that.
The file `deploy/prometheus/alerts.yml` has an alert for each way to fail. A metric of type
`stateset` has a label of its own name: 1 for the current state, 0 for the others.

| metric | type | labels | what it counts |
|---|---|---|---|
"""

_NODE: Final = """
supervisor.standby = 0
models = [{ id = "example", path = "/nowhere", preload = false }]
"""


def page() -> str:
    """Return the page."""
    return _BEGINNING + "".join(map(_row, asyncio.run(_families())))


async def _families() -> Iterable[Metric]:
    config = parse_config(_NODE, source="an example", folder=Path.cwd())
    runner = web.AppRunner(build_app(config))
    await runner.setup()
    try:
        return list(_NodeCollector(runner.app[CONTEXT]).collect())
    finally:
        await runner.cleanup()


def _row(family: Metric) -> str:
    counted = isinstance(family, CounterMetricFamily)
    name = f"{family.name}_total" if counted else family.name
    labels = getattr(family, "_labelnames", ())
    names = (family.name,) if isinstance(family, StateSetMetricFamily) else ()
    cells = ", ".join(f"`{label}`" for label in (*names, *labels))
    return f"| `{name}` | {family.type} | {cells} | {family.documentation} |\n"
