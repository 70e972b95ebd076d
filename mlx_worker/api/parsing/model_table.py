"""The terms of all models of a node, in the front and in the process for large bodies.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from mlx_worker.api.dialects.model_terms import ModelSettings, ModelTerms, RequestCapacity
from mlx_worker.errors import UnknownModel

if TYPE_CHECKING:
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.node import Node


class ModelLookup(Protocol):
    """The terms of every model of a node."""

    def terms(self, name: str | None) -> ModelTerms:
        """Return the terms of the model that a request names. Raises UnknownModel."""


class NodeModels:
    """The models of a node as one request sees them: each name is looked up once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._found: dict[str | None, ModelRuntime] = {}

    def find(self, name: str | None) -> ModelRuntime:
        """Return the model that a request names. Raises UnknownModel."""
        if (model := self._found.get(name)) is None:
            model = self._found[name] = self._node.find(name)
        return model

    def terms(self, name: str | None) -> ModelTerms:
        """Return the terms of the model that a request names. Raises UnknownModel."""
        return _terms(self.find(name))

    def table(self) -> ModelTable:
        """Return the terms of all models, for a process without a node."""
        node = self._node
        return ModelTable(
            by_name={
                name: _terms(model)
                for model in node.models.values()
                for name in (model.config.id, *model.config.aliases)
            },
            primary=_terms(node.primary),
            ids=list(node.models),
            takes_any_name=node.takes_any_name,
        )


class ModelTable(msgspec.Struct, frozen=True):
    """The terms of all models by name; `takes_any_name`: unknown names mean the primary model."""

    by_name: dict[str, ModelTerms]
    primary: ModelTerms
    ids: list[str]
    takes_any_name: bool

    def terms(self, name: str | None) -> ModelTerms:
        """Return the terms of the model that a request names. Raises UnknownModel."""
        if name is None:
            return self.primary
        if (known := self.by_name.get(name)) is not None:
            return known
        if self.takes_any_name:
            return self.primary
        raise UnknownModel.among(self.ids, name)


def request_capacity(served: ModelRuntime) -> RequestCapacity:
    """Return how many requests a model accepts at a time, running and queued together."""
    config = served.config
    return RequestCapacity(config.id, config.max_concurrency + config.max_queue)


def _terms(served: ModelRuntime) -> ModelTerms:
    config = served.config
    return ModelTerms(config.defaults, request_capacity(served), ModelSettings.of(config))
