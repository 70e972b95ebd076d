"""A request's view of the models: each name is looked up once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mlx_worker.api.parsing.model_table import NodeModels
from mlx_worker.config.schema import ModelConfig

if TYPE_CHECKING:
    from mlx_worker.supervisor.node import Node


class CountingNode:
    """A node that counts how often a name is looked up."""

    def __init__(self) -> None:
        self.lookups: list[str | None] = []

    def find(self, name: str | None) -> SimpleNamespace:
        self.lookups.append(name)
        return SimpleNamespace(config=ModelConfig(id=name or "default", path="p"))


def test_node_models_one_request_looks_a_name_up_once() -> None:
    node = CountingNode()
    models = NodeModels(cast("Node", node))
    assert models.terms("m").defaults == models.terms("m").defaults
    assert models.find("m") is models.find("m")
    assert models.find(None).config.id == "default"
    assert node.lookups == ["m", None]
