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
`stateset` has a label of its own name: 1 for the current state, 0 for the others. The metrics
`vllm:…` have the names of vLLM, for routers that read those. Words such as generation, slot or KV
are in [the glossary](glossary.md).

| metric | type | labels | what it counts |
|---|---|---|---|
"""

_NODE: Final = """
supervisor.standby = 0
cache.disk = false
models = [{ id = "example", path = "/nowhere", preload = false }]
"""


_LABELS: Final = """
## Labels

- `model`: the model's id. It is empty for the front's process, and for requests of which no model
  was found.
- `dialect`: `chat`, `completions`, `responses` or `messages`.
- `outcome`: `success`; `client_error`, an error in the request; `refused`, work that was not taken
  on, which is 429 and 503 but for `child_lost`; `failed`, work that was taken on, the time limit
  and `weights_changed` included; `cancelled`, by the client or an operator.
- `reason` of refusals and failures: the [error code](http-api.md#errors).
- `reason` of cache misses: `new`, not seen before; `evicted`, dropped for other prompts; `cleared`,
  by a command; `no system prompt`.
- `cause` of restarts, if the process or its folder failed: `exited`; `link_lost`, the pipe closed;
  `stalled`; `garbage`, bytes that are no message; `device_lost`; `load_failed`, which may succeed
  another time, and `cannot_load`, which cannot; `cannot_start`, a folder that cannot be used;
  `not_spawned`, the system refused a process; `deadline`, a time limit of a state.
- `cause` of restarts that were asked for: `restart`, `stop` and `unload`.
- `kind`: steps of `decode` and `prefill`; `admit`, a request that enters the batch; `prompt`,
  template and tokens; `compile`, a grammar; `detokenize`.
- `part` of prompts of sessions: what differs first from the session's last prompt; `none`, the
  prompt continues or repeats the last one; `unknown`, the process knows no such prompt. The others
  are in [Where a prompt parted](dialects.md#where-a-prompt-parted).
- `path`: the endpoint; `connection`, the head of a request; `none`, a path that the node does not
  have; `other`, work that belongs to no request.
- `process`: `front` or `model`.
- `source` of cached prompt tokens: `memory` or `disk`.
- `model_name`: the model's id, by vLLM's name. `block_size`: tokens of a block. `num_gpu_blocks`:
  blocks that the KV budget holds. `enable_prefix_caching`: always `True`.
"""


def page() -> str:
    """Return the page."""
    return _BEGINNING + "".join(map(_row, asyncio.run(_families()))) + _LABELS


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
