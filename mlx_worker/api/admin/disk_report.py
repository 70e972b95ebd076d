"""Report what is kept on disk: of one model, and of all models together.

Everything here is from the reports of models' processes: no report waits for a disk.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_worker.api.context import AppContext
    from mlx_worker.supervisor.model_status import ModelStatus


def of_model(model: ModelStatus, context: AppContext) -> dict[str, Any]:
    """Return what a model has on disk, and the counts of all its processes.

    `off` is why the disk is not used now; "" where the disk is used.
    """
    state, settings = model.disk, model.disk_settings
    return {
        "enabled": settings is not None,
        "off": off(model, context),
        "records": state.records if state else 0,
        "bytes": state.bytes if state else 0,
        "totalBytes": state.total_bytes if state else 0,
        "capacity": settings.capacity if settings else 0,
        "writtenToday": state.written_today if state else 0,
        "hits": state.hits if state else 0,
        "misses": state.misses if state else 0,
        "hitTokens": state.hit_tokens if state else 0,
        "secondsSaved": round(state.seconds_saved, 3) if state else 0.0,
        "quarantined": state.quarantined if state else 0,
        "corrupt": state.corrupt if state else 0,
        "evicted": state.evicted_segments if state else 0,
        "dropped": state.dropped if state else 0,
    }


def in_health(model: ModelStatus, context: AppContext) -> dict[str, Any]:
    """Return what `/health` says of a model's KV on disk: routers poll it, so it is short."""
    return {
        "enabled": model.disk_settings is not None,
        "off": off(model, context),
        "bytes": model.disk.bytes if model.disk else 0,
    }


def folder(context: AppContext) -> dict[str, Any]:
    """Return what all models have on disk together; `path` null: no KV is kept on disk."""
    settings = context.node.kv_folder.settings
    models = context.model_statuses().values()
    latest = max(models, key=lambda model: model.disk_reported_at).disk
    return {
        "enabled": settings is not None,
        "off": "" if settings else context.node.kv_folder.off,
        "path": settings.path if settings else None,
        "totalBytes": latest.total_bytes if latest else 0,
        "capacity": settings.capacity if settings else 0,
        "writtenToday": latest.written_today if latest else 0,
        "writesPerDay": settings.writes_per_day if settings else 0,
    }


def off(model: ModelStatus, context: AppContext) -> str:
    """Return why a model's KV on disk is not used now; "" where nothing prevents the use."""
    if not model.config.disk_cache:
        return "disk_cache of the model is false"
    if not model.config.keeps_kv_on_disk:
        return "several processes compute the model"
    if model.disk_settings is None:
        return context.node.kv_folder.off
    return model.child.disk.off if model.child.disk else ""


def is_disabled_by_failure(model: ModelStatus, context: AppContext) -> bool:
    """Return True if a model's KV is to be kept on disk, and the disk cannot be used now."""
    has_folder = model.disk_settings is not None or context.node.kv_folder.is_wanted
    return model.config.keeps_kv_on_disk and has_folder and bool(off(model, context))
