"""Expose the figures of the KV on disk.

[front]
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mlx_worker.api.admin import disk_report
from mlx_worker.api.metrics.families import MODEL, NO_LABELS, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext

_COUNTERS: Final = MappingProxyType(
    {
        "hits": "Records of KV that were read from disk.",
        "misses": "Records of KV that were wanted from disk and could not be read.",
        "seconds_saved": "Seconds of prefill that KV on disk has saved, without those of reading.",
        "corrupt": "Damaged records on disk: each was deleted, and its prompt was prefilled.",
        "evicted_segments": "Files of records on disk that were deleted to make room.",
        "dropped": "Records that were not written because too many waited for the disk.",
    }
)
"""Fields of a process's report that only grow, with what each counts."""

_GAUGES: Final = MappingProxyType(
    {
        "records": "Records of KV on disk.",
        "bytes": "Bytes of the records of KV on disk.",
        "quarantined": "Records set aside: a process read each one shortly before it crashed.",
    }
)

_OF_FOLDER: Final = MappingProxyType(
    {
        "folder_bytes": ("totalBytes", "Bytes of all files in the folder of KV on disk."),
        "limit_bytes": ("capacity", "Limit of disk_cache_folder_bytes; 0 without KV on disk."),
        "written_today_bytes": ("writtenToday", "Bytes of KV written to disk since midnight, UTC."),
    }
)


def disk_families(context: AppContext) -> Iterator[Metric]:
    """Yield the KV on disk of each model, and of the folder."""
    models = {(id_,): model for id_, model in context.model_statuses().items()}
    of_requests = {id_: context.request_metrics.by_model[id_[0]] for id_ in models}
    yield counter(
        "disk_cached_prompt_tokens",
        "Tokens of prompts that were read from disk, a part of cached_prompt_tokens.",
        MODEL,
        {id_: metrics.disk_tokens for id_, metrics in of_requests.items()},
    )
    yield counter(
        "cached_requests",
        "Requests with cached prompt tokens from memory or disk; one may have tokens of both.",
        ("model", "source"),
        {(*id_, "memory"): metrics.memory_hits for id_, metrics in of_requests.items()}
        | {(*id_, "disk"): metrics.disk_hits for id_, metrics in of_requests.items()},
    )
    states = {id_: model.disk for id_, model in models.items() if model.disk is not None}
    for field, about in _COUNTERS.items():
        yield counter(f"disk_cache_{field}", about, MODEL, _figures(states, field))
    for field, about in _GAUGES.items():
        yield gauge(f"disk_cache_{field}", about, MODEL, _figures(states, field))
    yield gauge(
        "disk_cache_off",
        "1 while KV of the model is to be kept on disk and the disk cannot be used, else 0.",
        MODEL,
        {id_: disk_report.is_disabled_by_failure(model, context) for id_, model in models.items()},
    )
    folder = disk_report.folder(context)
    for name, (key, about) in _OF_FOLDER.items():
        yield gauge(f"disk_cache_{name}", about, NO_LABELS, {NO_LABELS: folder[key]})


def _figures(states: Mapping[tuple[str], object], field: str) -> dict[tuple[str], float]:
    return {id_: getattr(state, field) for id_, state in states.items()}
