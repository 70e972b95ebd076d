"""The node's facts in the words of its callers: health, cache and model lists.

Everything here reads the front's own memory and answers at once, whatever a child is doing.
[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker import __version__
from mlx_worker.api.admin.health_report import model_reason, next_try_ms, node_reason
from mlx_worker.api.admin.schemas import ModelEntry
from mlx_worker.errors import ModelLoading, NodeDraining, Unavailable
from mlx_worker.health import Status, combined_status
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from mlx_worker.api.context import AppContext
    from mlx_worker.health import RequestStats
    from mlx_worker.supervisor.node import Served
    from mlx_worker.wire.messages import KvCost

# --- words --------------------------------------------------------------------------------


def model_word(served: Served, stats: RequestStats) -> Status:
    """One model's status: where its child is first, then what its counts say."""
    match served.child.state:
        case State.READY:
            return stats.status
        case State.STARTING | State.LOADING if _is_first_start(served):
            return "initializing"
        case State.STOPPED if served.child.coming_back or _is_inspected_now(served):
            return "initializing"  # about to be started
        case State.STOPPED | State.DRAINING | State.STOPPING:
            return "offline"
        case _:
            return "unhealthy"


def _is_first_start(served: Served) -> bool:
    return served.child.restarts == 0 and not served.child.given_up


def _is_inspected_now(served: Served) -> bool:
    """Return True while nothing is known of the model's folder yet."""
    return isinstance(served.child.held_back, ModelLoading)


def node_status(context: AppContext) -> Status:
    """The node's status."""
    if context.node.draining:
        return "offline"
    words = [
        model_word(it, context.model_stats[it.config.id]) for it in context.node.models.values()
    ]
    return combined_status(context.node_stats.status, words)


def can_serve(context: AppContext) -> bool:
    """Would a request find a model? One that it would start counts; one that fails does not."""
    if context.node.draining:
        return False
    return any(
        (served.child.state is State.READY and not context.model_stats[id_].failing)
        or (
            served.child.state in (State.STOPPED, State.STOPPING)
            and not served.child.coming_back
            and not _is_inspected_now(served)
        )
        for id_, served in context.node.models.items()
    )


def refuse_if_gone(context: AppContext) -> None:
    """Raise where the node will serve nothing for long: draining, or every model given up."""
    if context.node.draining:
        raise NodeDraining("the node is draining", retry_after=5)
    if context.node.all_given_up:
        served = context.node.models.values()
        reasons = "; ".join(f"{it.config.id}: {it.child.reason}" for it in served)
        soonest = min(it.child.retry_after for it in served)
        raise Unavailable(f"every model was given up: {reasons}", retry_after=soonest)


# --- health -------------------------------------------------------------------------------


def health(context: AppContext) -> dict[str, Any]:
    """The body of `/health` and `/v1/cluster/health`."""
    models = {id_: _model(served, context) for id_, served in context.node.models.items()}
    words = {id_: (entry["status"], entry["reason"]) for id_, entry in models.items()}
    status, draining = node_status(context), context.node.draining
    return {
        "status": status,
        "reason": node_reason(status, context.node_stats.reason, words, draining=draining),
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
    """Return the requests that went to models which a reload has removed since."""
    totals = (
        stats.metrics()["totalRequests"]
        for id_, stats in list(context.model_stats.items())
        if id_ not in context.node.models
    )
    return sum(totals)


def _model(served: Served, context: AppContext) -> dict[str, Any]:
    stats = context.model_stats[served.config.id]
    facts = served.child.facts
    word = model_word(served, stats)
    return {
        "status": word,
        "state": state(served, context),
        "reason": model_reason(served, word, stats),
        "nextTry": next_try_ms(served.child),
        "pid": facts.pid,
        "restarts": served.child.restarts,
        "last_exit": {"how": exit_.how, "at": exit_.at}
        if (exit_ := served.child.last_exit)
        else None,
        "resumes": served.dispatch.resumes,
        "queueDepth": served.admission.queued,
        "running": served.admission.running,
        "warnings": list(served.planned.warnings),
        "contextLength": facts.loaded.context_length if facts.loaded else None,
        "unbatched": facts.loaded.unbatched if facts.loaded else "",
        "enteredAt": {name.value: at for name, at in served.child.entered_at.items()},
        "loadSeconds": facts.load_seconds,
        "loading": {"done": facts.loading.done, "total": facts.loading.total}
        if facts.loading and served.child.state is State.LOADING
        else None,
        "memory": {
            "expectedBytes": served.child.at_start or served.expected_bytes,
            "weightBytes": facts.loaded.weight_bytes if facts.loaded else None,
            "kvBudgetBytes": served.child.load.kv_bytes,
            "kv": _kv(facts.loaded.kv) if facts.loaded else None,
            "residentBytes": facts.pong.resident_bytes if facts.pong else None,
            "deviceBytes": facts.pong.device_bytes if facts.pong else None,
        },
        "health": stats.health(),
        "cache": _cache_in_health(served),
        "metrics": stats.metrics() | {"generatedTokens": served.child.pace.tokens},
    }


def _kv(cost: KvCost) -> dict[str, Any]:
    """Bytes of one row: fixed, and with each token (until so many; null: for ever)."""
    growing = [{"bytes": it.per_token, "until": it.until} for it in cost.growing]
    return {"fixedBytes": cost.fixed, "perToken": growing}


def state(served: Served, context: AppContext) -> State:
    """Where its child is; while the node drains, a READY one takes nothing new either."""
    now = served.child.state
    return State.DRAINING if context.node.draining and now is State.READY else now


# --- cache --------------------------------------------------------------------------------


def cache(context: AppContext, only: Served | None) -> dict[str, Any]:
    """The body of `/cache`: one model's, or the node's with each model's beneath."""
    if only is not None:
        return _cache_of_model(only, context)
    latest = _latest(context)
    return _cache_facts(latest) | {
        "hitRate": context.node_stats.hit_rate,
        "models": {id_: _cache_of_model(it, context) for id_, it in context.node.models.items()},
    }


def _cache_of_model(served: Served, context: AppContext) -> dict[str, Any]:
    state = served.child.facts.cache
    return _cache_facts(served) | {
        "hitRate": context.model_stats[served.config.id].hit_rate,
        "misses": context.model_stats[served.config.id].misses,
        "entries": state.entries if state else 0,
        "warmed": state.warmed if state else 0,
        "bytes": state.bytes if state else 0,
        "capacity": state.capacity if state else 0,
    }


def _cache_facts(served: Served) -> dict[str, Any]:
    state = served.child.facts.cache
    return {
        "tokens": state.tokens if state else 0,
        "systemPromptHash": state.system_prompt_hash if state else "",
        "lastUpdated": state.last_updated if state else 0,
    }


def _cache_in_health(served: Served) -> dict[str, Any]:
    facts = _cache_facts(served)
    return facts | {"warmed": facts["tokens"] > 0}


def _latest(context: AppContext) -> Served:
    """The model whose cache was warmed or used last: the node's cache is shown by it."""
    models = [context.node.primary, *context.node.models.values()]
    return max(
        models, key=lambda it: it.child.facts.cache.last_updated if it.child.facts.cache else 0
    )


# --- models -------------------------------------------------------------------------------


def models(context: AppContext) -> list[ModelEntry]:
    """All configured models and aliases, loaded or not, as OpenAI lists them."""
    return [
        _entry(name, served, context)
        for served in context.node.models.values()
        for name in (served.config.id, *served.config.aliases)
    ]


def _entry(name: str, served: Served, context: AppContext) -> ModelEntry:
    loaded = served.child.facts.loaded
    return ModelEntry(
        id=name,
        created=context.created,
        root=served.config.id,
        context_length=loaded.context_length if loaded else served.context_length,
        state=served.child.state,
    )
