"""Expose the metrics that vLLM's production-stack router balances by.

That router expects one model of an engine, and reads the last sample of a name. So the default
model comes last. Prefix-cache figures are in tokens, as vLLM's are.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext

LABELS: Final = ["model_name"]


def families(context: AppContext) -> Iterator[Metric]:
    """Yield the metrics that the router's engine statistics read."""
    default = context.node.primary.status()
    others = [
        model for model in context.model_statuses().values() if model.config.id != default.config.id
    ]
    running = GaugeMetricFamily(
        "vllm:num_requests_running", "Generations that have a decode slot.", labels=LABELS
    )
    waiting = GaugeMetricFamily(
        "vllm:num_requests_waiting", "Generations waiting for a decode slot.", labels=LABELS
    )
    usage = GaugeMetricFamily(
        "vllm:gpu_cache_usage_perc",
        "Share of the KV budget that running generations use, 0 to 1.",
        labels=LABELS,
    )
    hits = CounterMetricFamily(
        "vllm:gpu_prefix_cache_hits", "Prompt tokens found in the prompt cache.", labels=LABELS
    )
    queries = CounterMetricFamily(
        "vllm:gpu_prefix_cache_queries", "Prompt tokens of all generations.", labels=LABELS
    )
    for model in (*others, default):
        name, metrics = [model.config.id], context.request_metrics.by_model[model.config.id]
        running.add_metric(name, model.running)
        waiting.add_metric(name, model.queued)
        usage.add_metric(name, model.kv_usage)
        hits.add_metric(name, metrics.cached_tokens)
        queries.add_metric(name, metrics.prompt_tokens)
    yield from (running, waiting, usage, hits, queries)
