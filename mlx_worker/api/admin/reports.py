"""Report the node's health, caches and models in the shapes that clients read.

Everything here is read from the front's own memory, so reports never wait for a child.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker import __version__
from mlx_worker.api.admin.health_report import model_reason, next_try_ms, node_reason
from mlx_worker.api.admin.schemas import ModelEntry
from mlx_worker.errors import ModelLoading, NodeDraining, Unavailable
from mlx_worker.health import Status, node_word
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from mlx_worker.api.context import AppContext
    from mlx_worker.health import Ledger
    from mlx_worker.supervisor.node import Served
    from mlx_worker.wire.kv_cost import KvCost

# --- status -------------------------------------------------------------------------------


def model_status(model: Served, stats: Ledger) -> Status:
    """Return a model's status: by its child's state, and if that is ready by its requests."""
    match model.child.state:
        case State.READY:
            return stats.word
        case State.STARTING | State.LOADING if _is_first_start(model):
            return "initializing"
        case State.STOPPED if model.child.coming_back or _is_being_inspected(model):
            return "initializing"  # about to be started
        case State.STOPPED | State.DRAINING | State.STOPPING:
            return "offline"
        case _:
            return "unhealthy"


def _is_first_start(model: Served) -> bool:
    return model.child.restarts == 0 and not model.child.given_up


def _is_being_inspected(model: Served) -> bool:
    """Return True while nothing is known of the model's folder yet."""
    return isinstance(model.child.held_back, ModelLoading)


def node_status(context: AppContext) -> Status:
    """Return the node's status."""
    if context.node.draining:
        return "offline"
    statuses = [
        model_status(model, context.model_stats[id_]) for id_, model in context.node.models.items()
    ]
    return node_word(context.node_stats.word, statuses)


def can_serve(context: AppContext) -> bool:
    """Return True if a request would find a model that runs or that the request would start.

    A model whose last requests failed does not count.
    """
    if context.node.draining:
        return False
    return any(
        (model.child.state is State.READY and not context.model_stats[id_].failing)
        or (
            model.child.state in (State.STOPPED, State.STOPPING)
            and not model.child.coming_back
            and not _is_being_inspected(model)
        )
        for id_, model in context.node.models.items()
    )


def refuse_if_gone(context: AppContext) -> None:
    """Raise NodeDraining, or Unavailable where every model was given up."""
    if context.node.draining:
        raise NodeDraining("the node is draining", retry_after=5)
    if context.node.all_given_up:
        models = context.node.models.values()
        reasons = "; ".join(f"{model.config.id}: {model.child.reason}" for model in models)
        soonest = min(model.child.retry_after for model in models)
        raise Unavailable(f"every model was given up: {reasons}", retry_after=soonest)


# --- health -------------------------------------------------------------------------------


def health(context: AppContext) -> dict[str, Any]:
    """Return the body of `/health` and `/v1/cluster/health`."""
    models = {id_: _model(model, context) for id_, model in context.node.models.items()}
    statuses = {id_: (entry["status"], entry["reason"]) for id_, entry in models.items()}
    status, draining = node_status(context), context.node.draining
    return {
        "status": status,
        "reason": node_reason(status, context.node_stats.reason, statuses, draining=draining),
        "version": __version__,
        "uptime": context.uptime,
        "addresses": context.addresses,
        "health": context.node_stats.health(),
        "cache": _cache_in_health(_latest(context)),
        "metrics": context.node_stats.metrics()
        | {"requestsOfRemovedModels": _of_removed_models(context)},
        "standby": {"wanted": context.node.standby.wanted, "waiting": context.node.standby.waiting},
        "memory": {
            "usedBytes": context.node.pressure.used,
            "limitBytes": context.node.room.limit,
            "pressure": context.node.pressure.rung.name.lower(),
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


def _model(model: Served, context: AppContext) -> dict[str, Any]:
    stats = context.model_stats[model.config.id]
    facts = model.child.facts
    status = model_status(model, stats)
    return {
        "status": status,
        "state": state(model, context),
        "reason": model_reason(model, status, stats),
        "nextTry": next_try_ms(model.child),
        "pid": facts.pid,
        "restarts": model.child.restarts,
        "last_exit": {"how": exit_.how, "at": exit_.at}
        if (exit_ := model.child.last_exit)
        else None,
        "resumes": model.dispatch.resumes,
        "queueDepth": model.admission.queued,
        "running": model.admission.running,
        "warnings": list(model.planned.warnings),
        "contextLength": facts.loaded.context_length if facts.loaded else None,
        "unbatched": facts.loaded.unbatched if facts.loaded else "",
        "enteredAt": {name.value: at for name, at in model.child.entered_at.items()},
        "loadSeconds": facts.load_seconds,
        "loading": {"done": facts.loading.done, "total": facts.loading.total}
        if facts.loading and model.child.state is State.LOADING
        else None,
        "memory": {
            "expectedBytes": model.child.at_start or model.expected_bytes,
            "weightBytes": facts.loaded.weight_bytes if facts.loaded else None,
            "kvBudgetBytes": model.child.load.kv_bytes,
            "kv": _kv(facts.loaded.kv) if facts.loaded else None,
            "residentBytes": facts.pong.resident_bytes if facts.pong else None,
            "deviceBytes": facts.pong.device_bytes if facts.pong else None,
        },
        "health": stats.health(),
        "cache": _cache_in_health(model),
        "metrics": stats.metrics() | {"generatedTokens": model.child.pace.tokens},
    }


def _kv(cost: KvCost) -> dict[str, Any]:
    """Return the bytes of one generation: fixed, and per token up to `until` (null: no end)."""
    growing = [{"bytes": part.per_token, "until": part.until} for part in cost.growing]
    return {"fixedBytes": cost.fixed, "perToken": growing}


def state(model: Served, context: AppContext) -> State:
    """Return a model's state; a READY model takes no new request while the node drains."""
    current = model.child.state
    is_ready = current is State.READY
    return State.DRAINING if context.node.draining and is_ready else current


# --- cache --------------------------------------------------------------------------------


def cache(context: AppContext, only: Served | None) -> dict[str, Any]:
    """Return the body of `/cache`: of one model, or of the node with all its models."""
    if only is not None:
        return _cache_of_model(only, context)
    latest = _latest(context)
    return _cache_facts(latest) | {
        "hitRate": context.node_stats.hit_rate,
        "models": {
            id_: _cache_of_model(model, context) for id_, model in context.node.models.items()
        },
    }


def _cache_of_model(model: Served, context: AppContext) -> dict[str, Any]:
    state = model.child.facts.cache
    return _cache_facts(model) | {
        "hitRate": context.model_stats[model.config.id].hit_rate,
        "misses": context.model_stats[model.config.id].misses,
        "entries": state.entries if state else 0,
        "warmed": state.warmed if state else 0,
        "bytes": state.bytes if state else 0,
        "capacity": state.capacity if state else 0,
    }


def _cache_facts(model: Served) -> dict[str, Any]:
    state = model.child.facts.cache
    return {
        "tokens": state.tokens if state else 0,
        "systemPromptHash": state.system_prompt_hash if state else "",
        "lastUpdated": state.last_updated if state else 0,
    }


def _cache_in_health(model: Served) -> dict[str, Any]:
    facts = _cache_facts(model)
    return facts | {"warmed": facts["tokens"] > 0}


def _latest(context: AppContext) -> Served:
    """Return the model whose cache was used last: the node's report shows that cache."""
    models = [context.node.primary, *context.node.models.values()]
    return max(models, key=_cache_last_updated)


def _cache_last_updated(model: Served) -> float:
    cache = model.child.facts.cache
    return cache.last_updated if cache else 0


# --- models -------------------------------------------------------------------------------


def models(context: AppContext) -> list[ModelEntry]:
    """Return all configured models and aliases, loaded or not, as OpenAI lists them."""
    return [
        _entry(name, model, context)
        for model in context.node.models.values()
        for name in (model.config.id, *model.config.aliases)
    ]


def _entry(name: str, model: Served, context: AppContext) -> ModelEntry:
    loaded = model.child.facts.loaded
    return ModelEntry(
        id=name,
        created=context.created,
        root=model.config.id,
        context_length=loaded.context_length if loaded else model.context_length,
        state=model.child.state,
    )
