"""What parsing has to know of the models: their defaults, their settings, how much they take.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from mlx_worker.api.dialects.base import Places
from mlx_worker.api.parsing.model_settings import ModelSettings, settings_of
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import UnknownModel

if TYPE_CHECKING:
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.node import Node


class Terms(msgspec.Struct, frozen=True):
    """One model's."""

    defaults: Defaults
    places: Places
    settings: ModelSettings


class ModelTerms(Protocol):
    """The terms of every model of a node."""

    def terms(self, name: str | None) -> Terms:
        """Return the terms of the model that a request means. Raises UnknownModel."""


class Models:
    """The terms as the node's models have them now."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def terms(self, name: str | None) -> Terms:
        """Return the terms of the model that a request means. Raises UnknownModel."""
        return _terms(self._node.find(name))

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
    """The terms of all models by their names; `takes_any_name`: others mean the primary model."""

    by_name: dict[str, Terms]
    primary: Terms
    ids: list[str]
    takes_any_name: bool

    def terms(self, name: str | None) -> Terms:
        """Return the terms of the model that a request means. Raises UnknownModel."""
        if name is None:
            return self.primary
        if (known := self.by_name.get(name)) is not None:
            return known
        if self.takes_any_name:
            return self.primary
        raise UnknownModel.among(self.ids, name)


def places_of(model: ModelRuntime) -> Places:
    """Return how many requests a model has room for, at work and in line."""
    return Places(model.config.id, model.config.max_concurrency + model.config.max_queue)


def _terms(model: ModelRuntime) -> Terms:
    return Terms(model.config.defaults, places_of(model), settings_of(model.config))
