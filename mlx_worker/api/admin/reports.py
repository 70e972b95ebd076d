"""Report the node's health, caches and models in the shapes that clients read.

Everything here is read from the front's own memory, so reports never wait for a child.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker import __version__
from mlx_worker.api.admin import disk_report
from mlx_worker.api.admin.health_report import model_reason, next_try_ms, node_reason
from mlx_worker.api.admin.schemas import ModelEntry
from mlx_worker.errors import NodeDraining, Unavailable
from mlx_worker.health import Status, combined_status
from mlx_worker.supervisor.process.states import State
from mlx_worker.system.own_addresses import usable_urls

if TYPE_CHECKING:
    from mlx_worker.api.context import AppContext
    from mlx_worker.health import RequestStats
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.model_status import ModelStatus
    from mlx_worker.wire.kv_cost import KvCost
    from mlx_worker.wire.messages import Loaded, PassCost, Pong

# --- status -------------------------------------------------------------------------------


def model_status(model: ModelStatus, stats: RequestStats) -> Status:
    """Return a model's status: by its child's state, and if that is ready by its requests."""
    match model.state:
        case State.READY:
            return stats.status
        case State.STARTING | State.LOADING if model.restarts == 0 and not model.given_up:
            return "initializing"
        case State.STOPPED if model.coming_back or model.is_being_inspected:
            return "initializing"  # about to be started
        case State.STOPPED | State.DRAINING | State.STOPPING:
            return "offline"
        case _:
            return "unhealthy"


def node_status(context: AppContext) -> Status:
    """Return the node's status."""
    if context.node.draining:
        return "offline"
    statuses = [
        model_status(model, context.model_stats[id_])
        for id_, model in context.model_statuses().items()
    ]
    return combined_status(context.node_stats.status, statuses)


def can_serve(context: AppContext) -> bool:
    """Return True if a request would find a model that runs or that the request would start.

    A model whose last requests failed does not count.
    """
    if context.node.draining:
        return False
    return any(
        (model.state is State.READY and not context.model_stats[id_].failing)
        or (
            model.state in (State.STOPPED, State.STOPPING)
            and not model.coming_back
            and not model.is_being_inspected
        )
        for id_, model in context.model_statuses().items()
    )


def refuse_if_gone(context: AppContext) -> None:
    """Raise NodeDraining, or Unavailable where every model was given up."""
    if context.node.draining:
        raise NodeDraining("the node is draining", retry_after=5)
    if context.node.all_given_up:
        models = context.model_statuses().values()
        reasons = "; ".join(f"{model.config.id}: {model.reason}" for model in models)
        soonest = min(model.retry_after for model in models)
        raise Unavailable(f"every model was given up: {reasons}", retry_after=soonest)


# --- health -------------------------------------------------------------------------------


def health(context: AppContext) -> dict[str, Any]:
    """Return the body of `/health` and `/v1/cluster/health`."""
    models = {id_: _model(model, context) for id_, model in context.model_statuses().items()}
    statuses = {id_: (entry["status"], entry["reason"]) for id_, entry in models.items()}
    status, draining = node_status(context), context.node.draining
    return {
        "status": status,
        "reason": node_reason(status, context.node_stats.reason, statuses, draining=draining),
        "version": __version__,
        "uptime": context.uptime,
        "addresses": usable_urls(context.addresses),
        "health": context.node_stats.health(),
        "cache": _cache_in_health(_latest(context)),
        "metrics": context.node_stats.metrics()
        | {"requestsOfRemovedModels": _of_removed_models(context)},
        "standby": {
            "wanted": context.node.spare_pool.wanted,
            "waiting": context.node.spare_pool.waiting,
        },
        "memory": {
            "usedBytes": context.node.pressure.used,
            "limitBytes": context.node.budget.limit,
            "pressure": context.node.pressure.level.name.lower(),
        },
        "models": models,
    }


def _of_removed_models(context: AppContext) -> int:
    """Return the number of requests to models that a reload has removed."""
    totals = (
        stats.metrics()["totalRequests"]
        for id_, stats in list(context.model_stats.items())
        if id_ not in context.node.models
    )
    return sum(totals)


def _model(model: ModelStatus, context: AppContext) -> dict[str, Any]:
    stats = context.model_stats[model.config.id]
    child, loaded, pong, exit_ = model.child, model.child.loaded, model.child.pong, model.last_exit
    of_requests = context.request_metrics.by_model[model.config.id]
    status = model_status(model, stats)
    return {
        "status": status,
        "state": state(model, context),
        "reason": model_reason(model, status, stats),
        "nextTry": next_try_ms(model.next_try),
        "pid": child.pid,
        "restarts": model.restarts,
        "last_exit": {"how": exit_.how, "at": exit_.at} if exit_ else None,
        "resumes": model.resumes,
        "queueDepth": model.queued,
        "running": model.running,
        "warnings": list(model.warnings),
        "contextLength": loaded.context_length if loaded else None,
        "unbatched": loaded.unbatched if loaded else "",
        "speculation": _speculation(model, loaded, pong),
        "dtype": loaded.dtype if loaded else "",
        "blas": child.versions.get("blas", ""),
        "enteredAt": {name.value: at for name, at in model.entered_at.items()},
        "loadSeconds": child.load_seconds,
        "loading": {"done": child.loading.done, "total": child.loading.total}
        if child.loading and model.state is State.LOADING
        else None,
        "memory": {
            "expectedBytes": model.expected_bytes,
            "weightBytes": loaded.weight_bytes if loaded else None,
            "kvBudgetBytes": model.kv_budget_bytes,
            "kv": _kv(loaded.kv) if loaded else None,
            "residentBytes": pong.resident_bytes if pong else None,
            "deviceBytes": pong.device_bytes if pong else None,
        },
        "ranks": [
            {
                "rank": rank.rank,
                "pid": rank.pid,
                "residentBytes": rank.resident_bytes,
                "deviceBytes": rank.device_bytes,
            }
            for rank in child.ranks
        ],
        "health": stats.health(),
        "cache": _cache_in_health(model) | {"disk": disk_report.in_health(model, context)},
        "metrics": stats.metrics()
        | {
            "generatedTokens": model.generated_tokens,
            "promptTokens": of_requests.prompt_tokens,
            "cachedTokens": of_requests.cached_tokens,
            "diskTokens": of_requests.disk_tokens,
        },
    }


def _speculation(model: ModelStatus, loaded: Loaded | None, pong: Pong | None) -> dict[str, Any]:
    """Return why no tokens are drafted, the measured forward passes, and what came of drafts.

    `draftModel` has the same of the draft model; None: none is configured.
    """
    of_draft_model = {
        "off": loaded.no_draft_model if loaded else "",
        "passes": _passes(loaded.draft_costs) if loaded else [],
        "draftedTokens": pong.model_drafted_tokens if pong else 0,
        "acceptedTokens": pong.model_accepted_tokens if pong else 0,
    }
    return {
        "off": loaded.no_speculation if loaded else "",
        "passes": _passes(loaded.pass_costs) if loaded else [],
        "draftedTokens": pong.drafted_tokens if pong else 0,
        "acceptedTokens": pong.accepted_tokens if pong else 0,
        "draftModel": of_draft_model if model.config.draft else None,
    }


def _passes(costs: list[PassCost]) -> list[dict[str, Any]]:
    """Return the measured forward passes by rows; those of one number of rows by their width."""
    passes: dict[int, list[float]] = {}
    for cost in costs:
        passes.setdefault(cost.rows, []).append(round(cost.seconds * 1000, 3))
    return [{"rows": rows, "ms": by_width} for rows, by_width in passes.items()]


def _kv(cost: KvCost) -> dict[str, Any]:
    """Return the bytes of one generation: fixed, and per token up to `until` (null: no end)."""
    growing = [{"bytes": part.per_token, "until": part.until} for part in cost.growing]
    return {"fixedBytes": cost.fixed, "perToken": growing}


def state(model: ModelStatus, context: AppContext) -> State:
    """Return a model's state; a READY model takes no new request while the node drains."""
    current = model.state
    is_ready = current is State.READY
    return State.DRAINING if context.node.draining and is_ready else current


# --- cache --------------------------------------------------------------------------------


def cache(context: AppContext, only: ModelRuntime | None) -> dict[str, Any]:
    """Return the body of `/cache`: of one model, or of the node with all its models."""
    if only is not None:
        return _cache_of_model(only.status(), context)
    latest = _latest(context)
    return _cache_facts(latest) | {
        "hitRate": context.node_stats.hit_rate,
        "models": {
            id_: _cache_of_model(model, context) for id_, model in context.model_statuses().items()
        },
        "disk": disk_report.folder(context),
    }


def _cache_of_model(model: ModelStatus, context: AppContext) -> dict[str, Any]:
    cache = model.child.cache
    of_requests = context.request_metrics.by_model[model.config.id]
    return _cache_facts(model) | {
        "hitRate": context.model_stats[model.config.id].hit_rate,
        "misses": context.model_stats[model.config.id].misses,
        "entries": cache.entries if cache else 0,
        "warmed": cache.warmed if cache else 0,
        "bytes": cache.bytes if cache else 0,
        "capacity": cache.capacity if cache else 0,
        "hitsBySource": {"memory": of_requests.memory_hits, "disk": of_requests.disk_hits},
        "cachedTokensBySource": {
            "memory": of_requests.cached_tokens - of_requests.disk_tokens,
            "disk": of_requests.disk_tokens,
        },
        "disk": disk_report.of_model(model, context),
        "kvEvents": _kv_events(model),
    }


def _kv_events(model: ModelStatus) -> dict[str, Any] | None:
    """Return what the model's KV events have said so far; None if the model publishes none."""
    if (state := model.kv_events) is None:
        return None
    return {
        "sequence": state.sequence,
        "blocks": state.blocks,
        "digest": f"{state.digest:016x}",
        "off": state.off,
    }


def _cache_facts(model: ModelStatus) -> dict[str, Any]:
    cache = model.child.cache
    return {
        "tokens": cache.tokens if cache else 0,
        "systemPromptHash": cache.system_prompt_hash if cache else "",
        "lastUpdated": cache.last_updated if cache else 0,
    }


def _cache_in_health(model: ModelStatus) -> dict[str, Any]:
    facts = _cache_facts(model)
    return facts | {"warmed": facts["tokens"] > 0}


def _latest(context: AppContext) -> ModelStatus:
    """Return the model whose cache was used last: the node's report shows that cache."""
    models = [context.node.primary.status(), *context.model_statuses().values()]
    return max(models, key=_cache_last_updated)


def _cache_last_updated(model: ModelStatus) -> float:
    cache = model.child.cache
    return cache.last_updated if cache else 0


# --- models -------------------------------------------------------------------------------


def models(context: AppContext) -> list[ModelEntry]:
    """Return all configured models and aliases, loaded or not, as OpenAI lists them."""
    return [
        _entry(name, model, context)
        for model in context.model_statuses().values()
        for name in (model.config.id, *model.config.aliases)
    ]


def _entry(name: str, model: ModelStatus, context: AppContext) -> ModelEntry:
    context_length = model.known_context_length
    return ModelEntry(
        id=name,
        created=context.created,
        root=model.config.id,
        context_length=context_length,
        max_model_len=context_length,
        state=model.state,
    )
