"""The node's counts as Prometheus reads them, put into words only when it asks.

Nothing on a request's way knows of Prometheus: what is counted there are plain numbers, and what
`/health` says is read from where it reads it. [front]
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, get_args

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mlx_worker import __version__
from mlx_worker.api.admin import reports
from mlx_worker.api.metrics import vllm_compat
from mlx_worker.api.metrics.families import counter, gauge, histogram, states
from mlx_worker.health import Status
from mlx_worker.logs import DROPPED
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import Front
    from mlx_worker.api.metrics.families import Labels
    from mlx_worker.supervisor.model_status import ModelStatus

ONE: Final[Labels] = ()
"""The labels of what there is one of."""
MODEL: Final = ("model",)

_FRONT: Final = psutil.Process()


def exposed(front: Front, accept: str) -> tuple[bytes, str]:
    """The body in the encoding for such an Accept header, and its Content-Type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Node(front))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Node(Collector):
    """Everything that there is to say of one node."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def describe(self) -> list[Metric]:
        """Nothing: the registry knows no other collector that it could clash with."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families: the node, a request's way, a child's life, memory, other names."""
        yield from _node(self._front)
        yield from _ends(self._front)
        yield from _now(self._front)
        yield from _times(self._front)
        yield from _tokens(self._front)
        yield from _lives(self._front)
        yield from _caches(self._front)
        yield from _memory(self._front)
        yield from vllm_compat.families(self._front)


def _node(front: Front) -> Iterator[Metric]:
    node = front.node
    yield gauge("build", "What runs: always 1.", ("version",), {(__version__,): 1})
    word = {ONE: reports.node_status(front)}
    what = "The node's status, as /health says it."
    yield states("node_status", what, ONE, get_args(Status), word)
    yield gauge("draining", "Is the node on its way out?", ONE, {ONE: node.draining})
    yield gauge("spares_waiting", "Spare processes.", ONE, {ONE: len(node.standby.waiting)})
    what = "How late the front's event loop comes to what is due."
    yield histogram("event_loop_lag_seconds", what, ONE, {ONE: front.lag.seen})
    what = "Steps that held the front's event loop longer than 50 ms, by the path asked."
    held: dict[Labels, float] = {(path,): times for path, times in front.lag.held.counts.items()}
    yield counter("loop_held", what, ("path",), held)
    what = "Log lines that were not written: nothing took them as fast as they came."
    yield counter("log_lines_dropped", what, ONE, {ONE: DROPPED.total})


def _statuses(front: Front) -> dict[Labels, ModelStatus]:
    return {(id_,): model.status() for id_, model in front.node.models.items()}


# --- requests -----------------------------------------------------------------------------


def _ends(front: Front) -> Iterator[Metric]:
    requests: Counter[Labels] = Counter()
    reasons: dict[str, Counter[Labels]] = {"refused": Counter(), "failed": Counter()}
    for kind, times in front.traffic.requests.items():
        requests[kind.model, kind.dialect, kind.outcome] += times
        if kind.outcome in reasons:
            reasons[kind.outcome][kind.model, kind.error] += times
    by_outcome, by_reason = ("model", "dialect", "outcome"), ("model", "reason")
    yield counter("requests", "Generations that have ended.", by_outcome, requests)
    yield counter("refusals", "Generations refused, by code.", by_reason, reasons["refused"])
    yield counter("failures", "Generations that failed, by code.", by_reason, reasons["failed"])


def _now(front: Front) -> Iterator[Metric]:
    models = _statuses(front)
    ledgers = {id_: front.ledgers[model.config.id].metrics() for id_, model in models.items()}
    in_flight = {id_: it["requestsInFlight"] for id_, it in ledgers.items()}
    running = {id_: model.running for id_, model in models.items()}
    queued = {id_: model.queued for id_, model in models.items()}
    yield gauge("requests_in_flight", "Requests that have not ended.", MODEL, in_flight)
    yield gauge("generations_running", "Places taken.", MODEL, running)
    yield gauge("generations_queued", "Generations in line for a place.", MODEL, queued)


def _times(front: Front) -> Iterator[Metric]:
    first = {(id_,): it.first_token for id_, it in front.traffic.flows.items()}
    whole = {(id_,): it.whole for id_, it in front.traffic.flows.items()}
    models = front.node.models.items()
    children = {(id_,): model.child.token_stats.between for id_, model in models}
    what = "From a request's body to its first token."
    yield histogram("time_to_first_token_seconds", what, MODEL, first)
    what = "Between two tokens of a row."
    yield histogram("inter_token_latency_seconds", what, MODEL, children)
    what = "From a request's body to its answer's end, where that was good."
    yield histogram("request_duration_seconds", what, MODEL, whole)


def _tokens(front: Front) -> Iterator[Metric]:
    flows = front.traffic.flows.items()
    prompt = {(id_,): it.prompt_tokens for id_, it in flows}
    cached = {(id_,): it.cached_tokens for id_, it in flows}
    said = {id_: model.generated_tokens for id_, model in _statuses(front).items()}
    yield counter("prompt_tokens", "Tokens of prompts.", MODEL, prompt)
    yield counter("cached_prompt_tokens", "Those of them that were resident.", MODEL, cached)
    yield counter("generated_tokens", "Tokens generated, as they come.", MODEL, said)


# --- children -----------------------------------------------------------------------------


def _lives(front: Front) -> Iterator[Metric]:
    models = _statuses(front)
    now = {id_: reports.state(model, front).value for id_, model in models.items()}
    yield states("model_state", "Where a model's process is.", MODEL, map(str, State), now)
    restarts = {
        (*id_, event.name.lower()): times
        for id_, model in models.items()
        for event, times in model.restarts_by.items()
    }
    what = "Processes started again, by what ended the one before."
    yield counter("restarts", what, ("model", "cause"), restarts)
    held = {
        (*id_, kind): times
        for id_, model in models.items()
        if (pong := model.child.pong) is not None
        for kind, times in pong.held.items()
    }
    what = "Pieces of work that held a thread of a model's process for more than a second, by kind."
    yield counter("child_held", what, ("model", "kind"), held)
    stalls = {id_: model.stalls for id_, model in models.items()}
    yield counter("stalls", "Processes killed with work and no progress.", MODEL, stalls)
    needs_reboot = {id_: model.has_lost_its_device for id_, model in models.items()}
    yield gauge("needs_reboot", "Is its device lost to new processes?", MODEL, needs_reboot)
    resumes = {id_: model.resumes for id_, model in models.items()}
    yield counter("resumes", "Generations that went on in another process.", MODEL, resumes)
    runtimes = front.node.models.items()
    crashes = {(id_,): model.dispatch.crash_to_token for id_, model in runtimes}
    what = "From a process's end to the next token of what it was doing."
    yield histogram("crash_to_token_seconds", what, MODEL, crashes)


# --- memory -------------------------------------------------------------------------------


def _caches(front: Front) -> Iterator[Metric]:
    ledgers = {id_: front.ledgers[id_] for id_ in front.node.models}
    hits = {(id_,): it.hits for id_, it in ledgers.items()}
    misses = {(id_, why): n for id_, it in ledgers.items() for why, n in it.misses.items()}
    yield counter("cache_hits", "Requests whose system prompt was resident.", MODEL, hits)
    yield counter("cache_misses", "Those whose was not.", ("model", "reason"), misses)
    facts = {
        id_: cache
        for id_, model in _statuses(front).items()
        if (cache := model.child.cache) is not None
    }
    held = {id_: it.bytes for id_, it in facts.items()}
    limits = {id_: it.capacity for id_, it in facts.items()}
    yield gauge("cache_bytes", "KV of cached prompts.", MODEL, held)
    yield gauge("cache_limit_bytes", "cache_bytes, running rows included.", MODEL, limits)


def _memory(front: Front) -> Iterator[Metric]:
    node = front.node
    models = _statuses(front)
    running = {id_: model.running_kv_bytes for id_, model in models.items()}
    budgets = {id_: model.kv_budget_bytes for id_, model in models.items()}
    yield gauge("kv_bytes", "KV of running rows, by their tokens.", MODEL, running)
    yield gauge("kv_budget_bytes", "What it may take.", MODEL, budgets)
    pongs = {id_: pong for id_, model in models.items() if (pong := model.child.pong) is not None}
    resident: dict[Labels, float] = {
        ("model", *id_): it.resident_bytes for id_, it in pongs.items()
    }
    resident["front", ""] = _FRONT.memory_info().rss
    labels = ("process", "model")
    yield gauge("process_resident_bytes", "What the system says it takes.", labels, resident)
    device = {id_: it.device_bytes for id_, it in pongs.items()}
    yield gauge("device_bytes", "What MLX holds.", MODEL, device)
    yield gauge("memory_used_bytes", "Of all models together.", ONE, {ONE: node.pressure.used})
    yield gauge("memory_limit_bytes", "memory_limit.", ONE, {ONE: node.budget.limit})
