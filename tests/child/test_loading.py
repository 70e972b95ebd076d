"""What a child has made of a model by the time that the model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.child.imported_code import ImportedCode
from mlx_worker.child.model_loading import load_model
from mlx_worker.engine.templates.rules import fit_to_template, rules_of
from mlx_worker.wire.messages import Load, Loaded

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlx_worker.wire.base import WireMessage


class Front:
    """A pipe's other end."""

    def __init__(self) -> None:
        self.heard: list[WireMessage] = []

    def send(self, messages: Iterable[WireMessage]) -> None:
        self.heard += messages


def test_template_rules_are_made_before_the_model_is_loaded(nano: Path) -> None:
    front = Front()
    load = Load(
        model="nano",
        path=str(nano),
        max_concurrency=2,
        context_length=None,
        cache_bytes=1 << 20,
        kv_bytes=1 << 30,
        prefill_pause=1.0,
    )
    rules_of.cache_clear()
    loaded = load_model(load, ImportedCode(), send=front.send, on_encoded=lambda: None)
    assert isinstance(front.heard[-1], Loaded)
    assert rules_of.cache_info().misses == 1
    fit_to_template(loaded.tokenizer, [{"role": "user", "content": "Hello"}])
    assert rules_of.cache_info().misses == 1
