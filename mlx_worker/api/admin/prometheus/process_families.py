"""Expose the figures of models' processes: states, restarts, recovery.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.api.admin import reports
from mlx_worker.api.metrics.families import MODEL, counter, gauge, histogram, state_set
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext
    from mlx_worker.supervisor.model_status import ModelStatus


def process_families(context: AppContext) -> Iterator[Metric]:
    """Yield the states, restarts and stalls of the processes."""
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
            (id_, event.label): count
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
    yield from _draft_families(models)
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


def _draft_families(models: Mapping[str, ModelStatus]) -> Iterator[Metric]:
    """Yield how many tokens were drafted, by what, and how many of them were right."""
    yield counter(
        "drafted_tokens",
        "Tokens that a model's process drafted and checked in wide forward passes.",
        MODEL,
        _of_pongs(models, "drafted_tokens"),
    )
    yield counter(
        "accepted_draft_tokens",
        "Drafted tokens that were right.",
        MODEL,
        _of_pongs(models, "accepted_tokens"),
    )
    yield counter(
        "draft_model_tokens",
        "Drafted tokens that the draft model drafted, and no lookup.",
        MODEL,
        _of_pongs(models, "model_drafted_tokens"),
    )
    yield counter(
        "accepted_draft_model_tokens",
        "Drafted tokens of the draft model that were right.",
        MODEL,
        _of_pongs(models, "model_accepted_tokens"),
    )


def _of_pongs(models: Mapping[str, ModelStatus], field: str) -> dict[tuple[str, ...], float]:
    """Return a figure that the models' processes count since their starts."""
    return {
        (id_,): getattr(model.child.pong, field)
        for id_, model in models.items()
        if model.child.pong is not None
    }


def recovery_families(context: AppContext) -> Iterator[Metric]:
    """Yield how often generations were resumed after a crash, and how soon."""
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
        {(id_,): model.dispatcher.log.crash_to_token for id_, model in context.node.models.items()},
    )
