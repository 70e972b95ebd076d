"""What a child has made of a model by the time that the model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker.child.imported_code import ImportedCode
from mlx_worker.child.worker import Service
from mlx_worker.engine.templates.rules import fit_to_template, rules_of
from mlx_worker.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Front:
    """A pipe's other end."""

    def __init__(self) -> None:
        self.heard: list[m.Message] = []

    def send(self, messages: Iterable[m.Message]) -> None:
        self.heard += messages


def test_template_rules_are_made_before_the_model_is_loaded(nano: Path) -> None:
    front = Front()
    service: Any = Service(front, ImportedCode())  # type: ignore[arg-type]
    service.hear(
        m.Load(
            model="nano",
            path=str(nano),
            max_concurrency=2,
            context_length=None,
            cache_bytes=1 << 20,
            kv_bytes=1 << 30,
            prefill_pause=1.0,
        )
    )
    rules_of.cache_clear()
    service._load()
    assert isinstance(front.heard[-1], m.Loaded)
    assert rules_of.cache_info().misses == 1
    fit_to_template(service._tokenizer, [{"role": "user", "content": "Hello"}])
    assert rules_of.cache_info().misses == 1
