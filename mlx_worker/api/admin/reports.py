"""The node's facts in the words of its callers: health, cache and model lists.

Everything here reads the front's own memory and answers at once, whatever a child is doing.
[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker import __version__
from mlx_worker.api.admin.health_report import model_reason, next_try_ms, node_reason
from mlx_worker.api.admin.schemas import ModelEntry
from mlx_worker.errors import NodeDraining, Unavailable
from mlx_worker.health import Status, node_word
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from mlx_worker.api.context import Front
    from mlx_worker.health import Ledger
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.model_status import ModelStatus
    from mlx_worker.wire.messages import CacheState, KvCost

# --- words --------------------------------------------------------------------------------


def model_word(model: ModelStatus, ledger: Ledger) -> Status:
    """One model's status: where its child is first, then what its counts say."""
    match model.state:
        case State.READY:
            return ledger.word
        case State.STARTING | State.LOADING if model.restarts == 0 and not model.given_up:
            return "initializing"
        case State.STOPPED if model.coming_back or model.is_inspected_now:
            return "initializing"  # about to be started
        case State.STOPPED | State.DRAINING | State.STOPPING:
            return "offline"
        case _:
            return "unhealthy"


def node_status(front: Front) -> Status:
    """The node's status."""
    if front.node.draining:
        return "offline"
    models = front.node.models.items()
    words = [model_word(model.status(), front.ledgers[id_]) for id_, model in models]
    return node_word(front.ledger.word, words)


def can_serve(front: Front) -> bool:
    """Would a request find a model? One that it would start counts; one that fails does not."""
    if front.node.draining:
        return False
    return any(_serves(model.status(), front) for model in front.node.models.values())


def _serves(model: ModelStatus, front: Front) -> bool:
    if model.state is State.READY:
        return not front.ledgers[model.config.id].failing
    stopped = model.state in (State.STOPPED, State.STOPPING)
    return stopped and not model.coming_back and not model.is_inspected_now


def refuse_if_gone(front: Front) -> None:
    """Raise where the node will serve nothing for long: draining, or every model given up."""
    if front.node.draining:
        raise NodeDraining("the node is draining", retry_after=5)
    if front.node.all_given_up:
        models = [model.status() for model in front.node.models.values()]
        reasons = "; ".join(f"{model.config.id}: {model.reason}" for model in models)
        soonest = min(model.retry_after for model in models)
        raise Unavailable(f"every model was given up: {reasons}", retry_after=soonest)


# --- health -------------------------------------------------------------------------------


def health(front: Front) -> dict[str, Any]:
    """The body of `/health` and `/v1/cluster/health`."""
    models = {id_: _model(model.status(), front) for id_, model in front.node.models.items()}
    words = {id_: (entry["status"], entry["reason"]) for id_, entry in models.items()}
    status, draining = node_status(front), front.node.draining
    return {
        "status": status,
        "reason": node_reason(status, front.ledger.reason, words, draining=draining),
        "version": __version__,
        "uptime": front.uptime,
        "addresses": front.addresses,
        "health": front.ledger.health(),
        "cache": _cache_in_health(_latest_cache(front)),
        "metrics": front.ledger.metrics() | {"requestsOfRemovedModels": _of_removed_models(front)},
        "standby": {"wanted": front.node.standby.wanted, "waiting": front.node.standby.waiting},
        "memory": {
            "usedBytes": front.node.pressure.used,
            "limitBytes": front.node.budget.limit,
            "pressure": front.node.pressure.level.name.lower(),
        },
        "models": models,
    }


def _of_removed_models(front: Front) -> int:
    """Return the requests that went to models which a reload has removed since."""
    totals = (
        ledger.metrics()["totalRequests"]
        for id_, ledger in list(front.ledgers.items())
        if id_ not in front.node.models
    )
    return sum(totals)


def _model(model: ModelStatus, front: Front) -> dict[str, Any]:
    ledger = front.ledgers[model.config.id]
    child, loaded, pong, exit_ = model.child, model.child.loaded, model.child.pong, model.last_exit
    word = model_word(model, ledger)
    return {
        "status": word,
        "state": state(model, front),
        "reason": model_reason(model, word, ledger),
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
        "enteredAt": model.entered_at,
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
        "health": ledger.health(),
        "cache": _cache_in_health(child.cache),
        "metrics": ledger.metrics() | {"generatedTokens": model.generated_tokens},
    }


def _kv(cost: KvCost) -> dict[str, Any]:
    """Bytes of one row: fixed, and with each token (until so many; null: for ever)."""
    growing = [{"bytes": it.per_token, "until": it.until} for it in cost.growing]
    return {"fixedBytes": cost.fixed, "perToken": growing}


def state(model: ModelStatus, front: Front) -> State:
    """Where its child is; while the node drains, a READY one takes nothing new either."""
    return State.DRAINING if front.node.draining and model.state is State.READY else model.state


# --- cache --------------------------------------------------------------------------------


def cache(front: Front, only: ModelRuntime | None) -> dict[str, Any]:
    """The body of `/cache`: one model's, or the node's with each model's beneath."""
    if only is not None:
        return _cache_of_model(only.status(), front)
    models = front.node.models.items()
    return _cache_facts(_latest_cache(front)) | {
        "hitRate": front.ledger.hit_rate,
        "models": {id_: _cache_of_model(model.status(), front) for id_, model in models},
    }


def _cache_of_model(model: ModelStatus, front: Front) -> dict[str, Any]:
    cache, ledger = model.child.cache, front.ledgers[model.config.id]
    return _cache_facts(cache) | {
        "hitRate": ledger.hit_rate,
        "misses": ledger.misses,
        "entries": cache.entries if cache else 0,
        "warmed": cache.warmed if cache else 0,
        "bytes": cache.bytes if cache else 0,
        "capacity": cache.capacity if cache else 0,
    }


def _cache_facts(cache: CacheState | None) -> dict[str, Any]:
    return {
        "tokens": cache.tokens if cache else 0,
        "systemPromptHash": cache.system_prompt_hash if cache else "",
        "lastUpdated": cache.last_updated if cache else 0,
    }


def _cache_in_health(cache: CacheState | None) -> dict[str, Any]:
    facts = _cache_facts(cache)
    return facts | {"warmed": facts["tokens"] > 0}


def _latest_cache(front: Front) -> CacheState | None:
    """The cache that was warmed or used last: the node's cache is shown by it."""
    models = [front.node.primary, *front.node.models.values()]
    caches = [model.status().child.cache for model in models]
    return max(caches, key=lambda cache: cache.last_updated if cache else 0)


# --- models -------------------------------------------------------------------------------


def models(front: Front) -> list[ModelEntry]:
    """All configured models and aliases, loaded or not, as OpenAI lists them."""
    return [
        _entry(name, status, front)
        for status in (model.status() for model in front.node.models.values())
        for name in (status.config.id, *status.config.aliases)
    ]


def _entry(name: str, model: ModelStatus, front: Front) -> ModelEntry:
    loaded = model.child.loaded
    return ModelEntry(
        id=name,
        created=front.created,
        root=model.config.id,
        context_length=loaded.context_length if loaded else model.context_length,
        state=model.state,
    )
