"""Expose the node's figures as Prometheus metrics, formatted only when Prometheus asks.

A request's own path only counts plain numbers. What `/health` also reports is read from the source
that `/health` reads.

[front]
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, get_args

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mlx_worker import __version__
from mlx_worker.api.admin import reports, vllm_compat
from mlx_worker.api.metrics.families import counter, gauge, histogram, state_set
from mlx_worker.health import Status
from mlx_worker.logs import DROPPED
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.metrics.families import Labels

NO_LABELS: Final[Labels] = ()
"""The labels of a metric that the node has once."""
MODEL: Final = ("model",)

_FRONT_PROCESS: Final = psutil.Process()


def render_metrics(context: AppContext, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format for this Accept header, and their Content-Type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_NodeCollector(context))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _NodeCollector(Collector):
    """Collects every metric of one node."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    def describe(self) -> list[Metric]:
        """Return nothing: the registry has no other collector that could clash with this one."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families."""
        context = self._context
        yield from _node_families(context)
        yield from _outcome_families(context)
        yield from _queue_families(context)
        yield from _latency_families(context)
        yield from _token_families(context)
        yield from _process_families(context)
        yield from _recovery_families(context)
        yield from _cache_families(context)
        yield from _memory_families(context)
        yield from vllm_compat.families(context)


def _node_families(context: AppContext) -> Iterator[Metric]:
    node = context.node
    yield gauge(
        "build", "The version of mlx-worker that runs: always 1.", ("version",), {(__version__,): 1}
    )
    yield state_set(
        "node_status",
        "Status of the node, as reported by /health.",
        NO_LABELS,
        get_args(Status),
        {NO_LABELS: reports.node_status(context)},
    )
    yield gauge(
        "draining",
        "1 while the node drains before it stops.",
        NO_LABELS,
        {NO_LABELS: node.draining},
    )
    yield gauge(
        "spares_waiting",
        "Spare processes that wait for a model.",
        NO_LABELS,
        {NO_LABELS: len(node.spare_pool.waiting)},
    )
    yield histogram(
        "event_loop_lag_seconds",
        "How late the front's event loop runs what is due.",
        NO_LABELS,
        {NO_LABELS: context.loop_lag.histogram},
    )
    slow_steps = context.loop_lag.slow_steps.counts.items()
    yield counter(
        "loop_held",
        "Steps that blocked the front's event loop longer than 50 ms, by path.",
        ("path",),
        {(path,): count for path, count in slow_steps},
    )
    yield counter(
        "log_lines_dropped",
        "Log lines that were dropped because the log's reader was too slow.",
        NO_LABELS,
        {NO_LABELS: DROPPED.total},
    )


# --- requests -----------------------------------------------------------------------------


def _outcome_families(context: AppContext) -> Iterator[Metric]:
    requests: Counter[Labels] = Counter()
    errors: dict[str, Counter[Labels]] = {"refused": Counter(), "failed": Counter()}
    for labels, count in context.request_metrics.requests.items():
        requests[labels.model, labels.dialect, labels.outcome] += count
        if labels.outcome in errors:
            errors[labels.outcome][labels.model, labels.error] += count
    yield counter(
        "requests",
        "Generation requests that have ended, by outcome.",
        ("model", "dialect", "outcome"),
        requests,
    )
    by_reason = ("model", "reason")
    yield counter(
        "refusals", "Generation requests refused, by error code.", by_reason, errors["refused"]
    )
    yield counter(
        "failures", "Generation requests that failed, by error code.", by_reason, errors["failed"]
    )


def _queue_families(context: AppContext) -> Iterator[Metric]:
    models = context.model_statuses()
    in_flight = {(id_,): context.model_stats[id_].metrics()["requestsInFlight"] for id_ in models}
    yield gauge("requests_in_flight", "Requests that have not ended.", MODEL, in_flight)
    yield gauge(
        "generations_running",
        "Generations that have a decode slot.",
        MODEL,
        {(id_,): model.running for id_, model in models.items()},
    )
    yield gauge(
        "generations_queued",
        "Generations waiting for a decode slot.",
        MODEL,
        {(id_,): model.queued for id_, model in models.items()},
    )


def _latency_families(context: AppContext) -> Iterator[Metric]:
    by_model = context.request_metrics.by_model.items()
    yield histogram(
        "time_to_first_token_seconds",
        "Time from the arrival of a request's body to its first token.",
        MODEL,
        {(id_,): metrics.first_token for id_, metrics in by_model},
    )
    yield histogram(
        "inter_token_latency_seconds",
        "Time between two tokens of one generation.",
        MODEL,
        {(id_,): model.child.token_stats.inter_token for id_, model in context.node.models.items()},
    )
    yield histogram(
        "request_duration_seconds",
        "Time from the arrival of a request's body to the end of a successful response.",
        MODEL,
        {(id_,): metrics.duration for id_, metrics in by_model},
    )


def _token_families(context: AppContext) -> Iterator[Metric]:
    by_model = context.request_metrics.by_model.items()
    yield counter(
        "prompt_tokens",
        "Tokens of prompts, cached ones included.",
        MODEL,
        {(id_,): metrics.prompt_tokens for id_, metrics in by_model},
    )
    yield counter(
        "cached_prompt_tokens",
        "Tokens of prompts that were in the prompt cache; the cached share is of prompt_tokens.",
        MODEL,
        {(id_,): metrics.cached_tokens for id_, metrics in by_model},
    )
    yield counter(
        "prefill_tokens",
        "Computed tokens of prompts, without short prompts; their prefill took prefill_seconds.",
        MODEL,
        {(id_,): metrics.prefill_tokens for id_, metrics in by_model},
    )
    yield counter(
        "prefill_seconds",
        "Seconds from the start of a process on a prompt to its first token, for prefill_tokens.",
        MODEL,
        {(id_,): metrics.prefill_seconds for id_, metrics in by_model},
    )
    yield counter(
        "generated_tokens",
        "Tokens generated, counted as they arrive.",
        MODEL,
        {(id_,): model.generated_tokens for id_, model in context.model_statuses().items()},
    )


# --- processes of models ------------------------------------------------------------------


def _process_families(context: AppContext) -> Iterator[Metric]:
    models = context.model_statuses()
    yield state_set(
        "model_state",
        "State of a model's process.",
        MODEL,
        map(str, State),
        {(id_,): reports.state(model, context).value for id_, model in models.items()},
    )
    yield counter(
        "restarts",
        "Restarts of a model's process, by what ended the previous process.",
        ("model", "cause"),
        {
            (id_, event.name.lower()): count
            for id_, model in models.items()
            for event, count in model.restarts_by.items()
        },
    )
    yield counter(
        "child_held",
        "Pieces of work that blocked a thread of a model's process longer than 1 s, by kind.",
        ("model", "kind"),
        {
            (id_, kind): count
            for id_, model in models.items()
            if (pong := model.child.pong) is not None
            for kind, count in pong.slow_work.items()
        },
    )
    yield counter(
        "stalls",
        "Processes of a model that were killed because they had work and made no progress.",
        MODEL,
        {(id_,): model.stalls for id_, model in models.items()},
    )
    yield gauge(
        "needs_reboot",
        "1 if new processes of the model cannot use the device until the machine is restarted.",
        MODEL,
        {(id_,): model.has_lost_its_device for id_, model in models.items()},
    )


def _recovery_families(context: AppContext) -> Iterator[Metric]:
    models = context.model_statuses()
    yield counter(
        "resumes",
        "Generations that were resumed in another process.",
        MODEL,
        {(id_,): model.resumes for id_, model in models.items()},
    )
    yield histogram(
        "crash_to_token_seconds",
        "Time from the end of a model's process to the next token of a generation it ran.",
        MODEL,
        {(id_,): model.dispatcher.crash_to_token for id_, model in context.node.models.items()},
    )


# --- memory -------------------------------------------------------------------------------


def _cache_families(context: AppContext) -> Iterator[Metric]:
    models = context.model_statuses()
    stats = {id_: context.model_stats[id_] for id_ in models}
    yield counter(
        "cache_hits",
        "Requests whose system prompt was in the prompt cache; no share of tokens.",
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
        "Limit of the prompt cache in bytes (cache_bytes), running generations included.",
        MODEL,
        {id_: cache.capacity for id_, cache in caches.items()},
    )


def _memory_families(context: AppContext) -> Iterator[Metric]:
    node = context.node
    models = {(id_,): model for id_, model in context.model_statuses().items()}
    yield gauge(
        "kv_bytes",
        "Bytes of KV that running generations take, by their tokens.",
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
        "Memory of a process, as the operating system reports it.",
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
