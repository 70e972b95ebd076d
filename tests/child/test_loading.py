"""What a child has made of a model by the time that the model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from mlx_lm import convert

from mlx_worker.child.imported_code import ImportedCode
from mlx_worker.child.memory_probe import probe
from mlx_worker.child.model_loading import load_model
from mlx_worker.engine.templates.rules import fit_to_template, rules_of
from mlx_worker.errors import BadModelFolder
from mlx_worker.models.folder import inspect_folder
from mlx_worker.models.weight_types import AS_STORED
from mlx_worker.wire.messages import Load, Loaded, LoadFailed

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


def loaded_as(folder: Path, dtype: str, **settings: Any) -> Loaded:
    """What a child says of a model that it has loaded in this type."""
    front = Front()
    load = Load("m", str(folder), 1, None, 1 << 20, 1 << 30, 1.0, dtype=dtype, **settings)
    load_model(load, ImportedCode(), send=front.send, on_encoded=lambda: None)
    loaded = front.heard[-1]
    assert isinstance(loaded, Loaded)
    return loaded


def test_weights_are_held_in_the_type_that_the_front_names(nano: Path) -> None:
    stored, half = loaded_as(nano, ""), loaded_as(nano, "bfloat16")
    assert (stored.dtype, half.dtype) == ("float32", "bfloat16")
    assert half.weight_bytes * 2 == stored.weight_bytes
    assert half.kv.nbytes(100) * 2 == stored.kv.nbytes(100)
    assert half.weights != stored.weights
    # A type that the weights have already changes nothing, not their name either.
    again = loaded_as(nano, "float32")
    measured = {"pass_costs": stored.pass_costs, "no_speculation": stored.no_speculation}
    assert msgspec.structs.replace(again, **measured) == stored


def test_a_quantized_models_integers_stay(nano: Path, tmp_path: Path) -> None:
    folder = tmp_path / "q4"
    convert(str(nano), str(folder), quantize=True, q_group_size=32, q_bits=4, dtype="bfloat16")
    stored, single = loaded_as(folder, ""), loaded_as(folder, "float32")
    found = inspect_folder(folder)
    assert (stored.dtype, single.dtype) == ("bfloat16", "float32")
    assert stored.weight_bytes == found.weight_bytes
    assert single.weight_bytes == AS_STORED.applied_to(found, "float32").weight_bytes
    needs = probe(folder, "float32")
    assert (needs.weight_bytes, needs.kv) == (single.weight_bytes, single.kv)


def test_draft_model_with_another_tokenizer_fails_the_load_for_good(
    nano: Path, caller: Path
) -> None:
    front = Front()
    load = Load("m", str(nano), 1, None, 1 << 20, 1 << 30, 1.0, draft=str(caller))
    with pytest.raises(BadModelFolder):
        load_model(load, ImportedCode(), send=front.send, on_encoded=lambda: None)
    failed = front.heard[-1]
    assert isinstance(failed, LoadFailed)
    assert failed.permanent
    assert failed.reason.startswith(f"draft: {caller} has another tokenizer: the token ")


def test_draft_model_counts_in_weights_and_kv_where_it_is_used(tiny: Path, nano: Path) -> None:
    alone, both = loaded_as(tiny, ""), loaded_as(tiny, "", draft=str(nano))
    draft = loaded_as(nano, "", speculation="off")
    is_used = both.no_draft_model == ""  # which depends on how long passes took
    assert both.weight_bytes - alone.weight_bytes == is_used * draft.weight_bytes
    assert both.kv.nbytes(100) - alone.kv.nbytes(100) == is_used * draft.kv.nbytes(100)
    assert not is_used or both.draft_costs
    off = loaded_as(tiny, "", draft=str(nano), speculation="off")
    assert off.no_draft_model == "the model drafts nothing"
