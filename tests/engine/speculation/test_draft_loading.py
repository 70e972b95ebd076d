"""Which models draft for which, and what a draft model costs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.kv.cost import measure_kv_cost
from mlx_worker.engine.loading import read_model, weight_bytes
from mlx_worker.engine.speculation.draft_loading import LoadedDraft, load_draft
from mlx_worker.engine.speculation.ladder import WIDTHS, Ladder
from mlx_worker.errors import BadModelFolder
from mlx_worker.models.folder import inspect_folder
from tests.drafting_harness import FREE
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(tiny)
    return model, tokenizer


def slow() -> Ladder:
    """A model whose passes take minutes: any draft model is faster."""
    return Ladder({(1, width): 100.0 for width in WIDTHS})


def test_draft_model_is_loaded_and_counted(loaded: tuple[Any, Any], nano: Path) -> None:
    draft = load_draft(nano, loaded, slow(), 4)
    assert draft.model is not None
    assert draft.because == ""
    assert draft.weight_bytes == inspect_folder(nano).weight_bytes
    assert draft.ladder is not None
    assert {rows for rows, _ in draft.ladder.seconds} <= {1, 4}
    own = measure_kv_cost(loaded[0])
    both = own.beside(draft.kv)
    assert both.nbytes(100) == own.nbytes(100) + draft.kv.nbytes(100)
    assert draft.kv == measure_kv_cost(read_model(nano)[0])


def test_draft_model_that_costs_as_much_as_it_saves_is_not_used(
    loaded: tuple[Any, Any], tiny: Path
) -> None:
    fast = Ladder({(1, width): 1e-9 for width in WIDTHS})
    draft = load_draft(tiny, loaded, fast, 1)
    assert draft.model is None
    assert "times as fast" in draft.because


def test_model_that_drafts_nothing_needs_no_draft_model(
    loaded: tuple[Any, Any], nano: Path
) -> None:
    assert load_draft(nano, loaded, Ladder({}, "off"), 1) == LoadedDraft(
        because="the model drafts nothing"
    )


def test_draft_model_whose_kv_cannot_be_cut_is_not_used(
    loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    draft = load_draft(make("window", tmp_path / "window"), loaded, FREE, 1)
    assert draft.model is None
    assert draft.because == "the model's KV cannot be cut at any token"


@pytest.mark.parametrize("change", ["another id", "one more"])
def test_other_tokenizer_is_refused_by_its_first_difference(
    loaded: tuple[Any, Any], nano: Path, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(nano, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    if change == "another id":
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    else:
        vocabulary["added"] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadModelFolder) as refused:
        load_draft(folder, loaded, slow(), 1)
    said = str(refused.value)
    assert said.startswith(f"draft: {folder} has another tokenizer: the token ")
    expected = (
        "'added' has the id 1024 there, and is missing in the model's own"
        if change == "one more"
        else "has the id 301 there, and has the id 300 in the model's own"
    )
    assert said.endswith(expected)


def test_folder_without_a_tokenizer_is_refused(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(BadModelFolder, match="draft: no tokenizer in "):
        load_draft(tmp_path, loaded, slow(), 1)


def test_weights_of_the_draft_model_are_its_own(loaded: tuple[Any, Any], nano: Path) -> None:
    draft = load_draft(nano, loaded, slow(), 1, "bfloat16")
    assert draft.weight_bytes * 2 == weight_bytes(read_model(nano)[0])
