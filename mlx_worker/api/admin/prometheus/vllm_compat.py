"""Expose the metrics of vLLM that routers balance by.

vLLM renamed its cache metrics. Routers of today read the new names, vLLM's production-stack router
and smg the old ones too, so both are here with the same figures. Some routers expect one model of
an engine, and read the last sample of a name. So the default model comes last. Prefix-cache figures
are in tokens, as vLLM's are.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext
    from mlx_worker.supervisor.model_status import ModelStatus

LABELS: Final = ["model_name"]
CACHE_LABELS: Final = ["model_name", "block_size", "num_gpu_blocks", "enable_prefix_caching"]


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
    usages = [
        GaugeMetricFamily(
            name, "Share of the KV budget that running generations use, 0 to 1.", labels=LABELS
        )
        for name in ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc")
    ]
    hits = [
        CounterMetricFamily(name, "Prompt tokens found in the prompt cache.", labels=LABELS)
        for name in ("vllm:gpu_prefix_cache_hits", "vllm:prefix_cache_hits")
    ]
    queries = [
        CounterMetricFamily(name, "Prompt tokens of all generations.", labels=LABELS)
        for name in ("vllm:gpu_prefix_cache_queries", "vllm:prefix_cache_queries")
    ]
    cache = GaugeMetricFamily(
        "vllm:cache_config_info",
        "The KV budget in blocks of tokens, for models in memory: always 1.",
        labels=CACHE_LABELS,
    )
    for model in (*others, default):
        name, metrics = [model.config.id], context.request_metrics.by_model[model.config.id]
        running.add_metric(name, model.running)
        waiting.add_metric(name, model.queued)
        for usage in usages:
            usage.add_metric(name, model.kv_usage)
        for hit_tokens in hits:
            hit_tokens.add_metric(name, metrics.cached_tokens)
        for prompt_tokens in queries:
            prompt_tokens.add_metric(name, metrics.prompt_tokens)
        if blocks := _kv_blocks(model):
            cache.add_metric([*name, str(CHUNK_TOKENS), str(blocks), "True"], 1)
    yield from (running, waiting, *usages, *hits, *queries, cache)


def _kv_blocks(model: ModelStatus) -> int:
    """Return how many blocks of KV the budget holds; 0 while that is not known.

    A block has the tokens of a record on disk. KV of a fixed size has no blocks.
    """
    if model.child.loaded is None:
        return 0
    per_token = sum(
        growth.per_token for growth in model.child.loaded.kv.growing if growth.until is None
    )
    return model.kv_budget_bytes // (per_token * CHUNK_TOKENS) if per_token else 0
