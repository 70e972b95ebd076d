"""Expose the figures of requests, by model: outcomes, queues, latencies, tokens.

[front]
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mlx_worker.api.metrics.families import MODEL, counter, gauge, histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.metrics.families import Labels


def outcome_families(context: AppContext) -> Iterator[Metric]:
    """Yield how requests have ended, by outcome and error code."""
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
    yield counter(
        "joined_requests",
        "Requests that were given the response of an earlier, equal request.",
        ("model", "dialect"),
        context.request_metrics.joined,
    )


def queue_families(context: AppContext) -> Iterator[Metric]:
    """Yield the requests that run or wait now."""
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


def latency_families(context: AppContext) -> Iterator[Metric]:
    """Yield how long first tokens, further tokens and whole requests took."""
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


def token_families(context: AppContext) -> Iterator[Metric]:
    """Yield the tokens of prompts and answers."""
    by_model = context.request_metrics.by_model.items()
    yield counter(
        "prompt_tokens",
        "Tokens of prompts, cached ones included.",
        MODEL,
        {(id_,): metrics.prompt_tokens for id_, metrics in by_model},
    )
    yield counter(
        "cached_prompt_tokens",
        "Tokens of prompts that were in the prompt cache, a part of prompt_tokens.",
        MODEL,
        {(id_,): metrics.cached_tokens for id_, metrics in by_model},
    )
    yield from _session_families(context)
    yield counter(
        "prefill_tokens",
        "Computed tokens of prompts with 64 or more of them, whose prefill took prefill_seconds.",
        MODEL,
        {(id_,): metrics.prefill_tokens for id_, metrics in by_model},
    )
    yield counter(
        "prefill_seconds",
        "Seconds in which prefill_tokens were computed, up to the first token of each answer.",
        MODEL,
        {(id_,): metrics.prefill_seconds for id_, metrics in by_model},
    )
    yield counter(
        "generated_tokens",
        "Tokens generated, counted as they arrive.",
        MODEL,
        {(id_,): model.generated_tokens for id_, model in context.model_statuses().items()},
    )
    yield counter(
        "loops",
        "Generations that the loop guard ended because they repeated themselves.",
        MODEL,
        {(id_,): model.loops for id_, model in context.model_statuses().items()},
    )


def _session_families(context: AppContext) -> Iterator[Metric]:
    """Yield how prompts fit the last prompts of their sessions."""
    by_model = context.request_metrics.by_model.items()
    by_part = ("model", "part")
    yield counter(
        "session_prompts",
        "Prompts of sessions, by the part that differs from the session's last prompt.",
        by_part,
        {
            (id_, part): count
            for id_, metrics in by_model
            for part, count in metrics.session_prompts.items()
        },
    )
    yield counter(
        "session_shared_tokens",
        "Tokens of prompts that the last prompt of the session and its answer had too.",
        MODEL,
        {(id_,): metrics.shared_tokens for id_, metrics in by_model},
    )
    yield counter(
        "session_lost_tokens",
        "Tokens of a session's last prompt and its answer that the next one lacks, by the part.",
        by_part,
        {
            (id_, part): tokens
            for id_, metrics in by_model
            for part, tokens in metrics.lost_tokens.items()
        },
    )
