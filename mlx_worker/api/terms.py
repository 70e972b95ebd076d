"""What parsing has to know of the models: their defaults, and how much they take.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlx_worker.api.dialect import Places

if TYPE_CHECKING:
    from mlx_worker.config import Defaults
    from mlx_worker.supervisor.node import Node, Served


class Terms(NamedTuple):
    """One model's."""

    defaults: Defaults
    places: Places


class Models:
    """The models of a node. Pickled it is a `ModelTable`: another process has no node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def defaults(self, name: str | None) -> Defaults:
        """Return what that model means where a request says nothing. Raises UnknownModel."""
        return self._node.find(name).config.defaults

    def places(self, name: str | None) -> Places:
        """Return how many requests that model takes at a time. Raises UnknownModel."""
        return places_of(self._node.find(name))

    def __reduce__(self) -> tuple[type[ModelTable], tuple[dict[str, Terms], Terms]]:
        by_name = {
            name: _terms(served)
            for served in self._node.models.values()
            for name in (served.config.id, *served.config.aliases)
        }
        return ModelTable, (by_name, _terms(self._node.primary))


class ModelTable(NamedTuple):
    """The same for a process without a node.

    An unknown name has the terms of the primary model: the front refuses the name afterwards,
    where it is to be refused.
    """

    by_name: dict[str, Terms]
    primary: Terms

    def defaults(self, name: str | None) -> Defaults:
        """Return what that model means where a request says nothing."""
        return self._terms(name).defaults

    def places(self, name: str | None) -> Places:
        """Return how many requests that model takes at a time."""
        return self._terms(name).places

    def _terms(self, name: str | None) -> Terms:
        return self.primary if name is None else self.by_name.get(name, self.primary)


def places_of(served: Served) -> Places:
    """Return how many requests a model has room for, at work and in line."""
    return Places(served.config.id, served.config.max_concurrency + served.config.max_queue)


def _terms(served: Served) -> Terms:
    return Terms(served.config.defaults, places_of(served))
