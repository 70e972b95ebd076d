"""The names by which vLLM's production-stack router balances, so that it can over our nodes.

It takes an engine to have one model and reads the last sample of a name: the model that is meant
where nobody is named comes last. Prefix-cache figures are in tokens, as vLLM's are. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import Front

LABEL: Final = ["model_name"]


def families(front: Front) -> Iterator[Metric]:
    """What the router's engine statistics read."""
    last = front.node.primary
    models = [*(it for it in front.node.models.values() if it is not last), last]
    running = GaugeMetricFamily("vllm:num_requests_running", "Places taken.", labels=LABEL)
    waiting = GaugeMetricFamily("vllm:num_requests_waiting", "In line.", labels=LABEL)
    usage = GaugeMetricFamily(
        "vllm:gpu_cache_usage_perc", "KV of running rows, of their budget, 0 to 1.", labels=LABEL
    )
    hits = CounterMetricFamily("vllm:gpu_prefix_cache_hits", "Tokens resident.", labels=LABEL)
    queries = CounterMetricFamily("vllm:gpu_prefix_cache_queries", "Tokens read.", labels=LABEL)
    for status in (model.status() for model in models):
        name, flow = [status.config.id], front.traffic.flows[status.config.id]
        running.add_metric(name, status.running)
        waiting.add_metric(name, status.queued)
        usage.add_metric(name, status.kv_usage)
        hits.add_metric(name, flow.cached_tokens)
        queries.add_metric(name, flow.prompt_tokens)
    yield from (running, waiting, usage, hits, queries)
