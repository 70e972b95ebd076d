"""Expose the figures of memory: prompt caches, KV, processes, the device.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psutil

from mlx_worker.api.metrics.families import MODEL, NO_LABELS, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.metrics.families import Labels

_FRONT_PROCESS: Final = psutil.Process()


def cache_families(context: AppContext) -> Iterator[Metric]:
    """Yield the hits and bytes of the prompt caches."""
    models = context.model_statuses()
    stats = {id_: context.model_stats[id_] for id_ in models}
    yield counter(
        "cache_hits",
        "Requests whose system prompt was in the prompt cache; cached_prompt_tokens counts tokens.",
        MODEL,
        {(id_,): of_model.hits for id_, of_model in stats.items()},
    )
    yield counter(
        "cache_misses",
        "Requests whose system prompt was not in the prompt cache, by reason.",
        ("model", "reason"),
        {
            (id_, reason): count
            for id_, of_model in stats.items()
            for reason, count in of_model.misses.items()
        },
    )
    caches = {
        (id_,): cache for id_, model in models.items() if (cache := model.child.cache) is not None
    }
    yield gauge(
        "cache_bytes",
        "Bytes of KV that cached prompts take.",
        MODEL,
        {id_: cache.bytes for id_, cache in caches.items()},
    )
    yield gauge(
        "cache_limit_bytes",
        "Limit of the KV of cached prompts and running generations together (cache_bytes).",
        MODEL,
        {id_: cache.capacity for id_, cache in caches.items()},
    )


def memory_families(context: AppContext) -> Iterator[Metric]:
    """Yield the memory of the front, of models' processes and of running generations."""
    node = context.node
    models = {(id_,): model for id_, model in context.model_statuses().items()}
    yield gauge(
        "kv_bytes",
        "Bytes of KV that running generations take, computed from their tokens.",
        MODEL,
        {id_: model.running_kv_bytes for id_, model in models.items()},
    )
    yield gauge(
        "kv_budget_bytes",
        "Bytes of KV that running generations may take.",
        MODEL,
        {id_: model.kv_budget_bytes for id_, model in models.items()},
    )
    pongs = {id_: pong for id_, model in models.items() if (pong := model.child.pong) is not None}
    resident: dict[Labels, float] = {
        ("model", *id_): pong.resident_bytes for id_, pong in pongs.items()
    }
    resident["front", ""] = _FRONT_PROCESS.memory_info().rss
    yield gauge(
        "process_resident_bytes",
        "Memory of a process, as the operating system reports it. If MLX holds more than that on an"
        " NVIDIA GPU, what it holds.",
        ("process", "model"),
        resident,
    )
    yield gauge(
        "device_bytes",
        "Memory that MLX has allocated in a model's process.",
        MODEL,
        {id_: pong.device_bytes for id_, pong in pongs.items()},
    )
    yield gauge(
        "memory_used_bytes",
        "Memory that the processes of all models use together.",
        NO_LABELS,
        {NO_LABELS: node.pressure.used},
    )
    yield gauge(
        "memory_limit_bytes",
        "Memory that the processes of all models may use together (memory_limit).",
        NO_LABELS,
        {NO_LABELS: node.budget.limit},
    )
