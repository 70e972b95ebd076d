"""Name what an answer depends on besides its request: weights, versions, configured prompts.

[front]
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

from mlx_worker.config.schema.model_types import DROPPED_LINES
from mlx_worker.errors import WeightsChanged
from mlx_worker.system.package_code import child_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.process.status import ChildStatus

OURS: Final = "mlx-worker"
"""The name of this package among the versions."""

SHOWN: Final = 12
"""Hex digits of a hash in messages."""


@dataclass(frozen=True)
class Identity:
    """What determines the output of a process, besides the request.

    Two processes with equal identities give the same output. `variables` stands for the environment
    variables that the model's configuration sets, which may choose other kernels; "" for none.
    """

    weights: str
    versions: tuple[tuple[str, str], ...]
    variables: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """A short name: `fp_` and 12 hex digits."""
        return self.with_prompts("")

    def with_prompts(self, prompted: str) -> str:
        """Return the short name of this process together with `prompting` of its model."""
        known = f"{self.weights} {list(self.versions)}{self.variables}{prompted}"
        return f"fp_{hashlib.sha256(known.encode()).hexdigest()[:SHOWN]}"


def identity_of(status: ChildStatus) -> Identity:
    """Return the identity of the process with this status."""
    weights = status.loaded.weights if status.loaded else ""
    variables = repr(sorted(status.env.items())) if status.env else ""
    return _interned(weights, tuple(sorted(status.versions.items())), variables)


def prompting(model: ModelConfig) -> str:
    """Return how a configuration changes the prompts of requests; "" for the defaults."""
    added = (model.system_prompt, model.chat_template_kwargs)
    changed = repr(added) if any(added) else ""
    dropped = model.drop_system_lines
    return changed if dropped == DROPPED_LINES else f"{changed}{dropped}"


@lru_cache
def _interned(weights: str, versions: tuple[tuple[str, str], ...], variables: str) -> Identity:
    """Return one object for equal identities: every request asks for its fingerprint."""
    return Identity(weights, versions, variables)


@lru_cache
def own_code() -> str:
    """Return the version and the code's digest that the disk had when the node first asked."""
    return child_code()


def is_replaced(versions: Mapping[str, str]) -> bool:
    """Return True if a process imported another version of this package than the node did."""
    return versions.get(OURS, own_code()) != own_code()


def note_replaced_package(events: EventLog, model: str, versions: Mapping[str, str]) -> None:
    """Report that a new process runs other code than this node, and what to do."""
    if is_replaced(versions):
        events.record(
            "package replaced",
            model,
            level=logging.WARNING,
            node=own_code(),
            process=versions[OURS],
            cure="restart the node",
        )


def weights_changed(model: str, before: Identity, now: Identity) -> WeightsChanged:
    """Return the error of an answer that `before` began and only `now` could continue."""
    changes = "; ".join(_changes(before, now))
    cure = "restart the node, then send" if is_replaced(dict(now.versions)) else "send"
    return WeightsChanged(
        f"the process of model {model!r} ended during this answer, and the next one differs"
        f" ({changes}): its words would not belong to this answer; {cure} the request again"
    )


def _changes(before: Identity, now: Identity) -> Iterator[str]:
    if before.weights != now.weights:
        yield f"model files: {before.weights[:SHOWN]}, now {now.weights[:SHOWN]}"
    old, new = dict(before.versions), dict(now.versions)
    for name in sorted(old | new):
        if old.get(name) != new.get(name):
            yield f"{name}: {old.get(name, 'none')}, now {new.get(name, 'none')}"
    if before.variables != now.variables:
        yield "the environment variables of the model"  # their values may be secrets
