"""Every architecture of mlx_lm as a tiny random model: the node's tokens are mlx_lm's own.

The default run tries a handful; `tox -e families` tries every one.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.batch_support import UNBATCHED, is_cuttable, unbatched_because
from mlx_worker.engine.kv.cost import measure_kv_cost, trace_kv_cost
from mlx_worker.engine.loading import read_model
from tests.families.arguments import architectures, is_unimportable
from tests.families.known import BATCHED, INEXACT, MLX_LM, NOT_TRIED, REFUSED
from tests.families.made import make_family
from tests.families.trial import (
    after_a_replay,
    cut_otherwise_in_mlx_lm,
    in_a_batch,
    in_mlx_lms_batch,
    on_a_resident_prefix,
    with_drafts,
)
from tests.fidelity.reference import Model
from tests.rounds import IS_LONG, variants
from tests.tools.families import PAGE, page

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# What transformers says about a configuration that was made up is no finding.
pytestmark = pytest.mark.filterwarnings("ignore")

FEW = {"mamba"}
HANDFUL = {"gemma2", "gemma3_text", "gpt_bigcode", "mamba", "olmo", "plamo3", "qwen3_next"}

COMPUTING = {"dbrx"}
"""Architectures whose code looks at computed values: a trace ends there."""

VARIED = 20
"""Tokens that a model's answers have at least: one that repeats itself proves little."""


def chosen(names: Iterable[str]) -> list[Any]:
    tried = [name for name in names if IS_LONG or name in HANDFUL]
    return variants(tried, FEW)


@pytest.mark.skipif(not IS_LONG, reason="a newer mlx_lm may have more")
def test_every_architecture_of_mlx_lm_is_listed() -> None:
    assert version("mlx-lm") == MLX_LM
    assert sorted({*BATCHED, *UNBATCHED, *INEXACT, *REFUSED, *NOT_TRIED}) == architectures()


def test_the_page_says_what_the_suite_knows() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


ONE_AT_A_TIME = sorted(UNBATCHED.keys() - NOT_TRIED)


@pytest.mark.parametrize("name", chosen([*BATCHED, *ONE_AT_A_TIME]))
def test_answers_of_an_architecture_are_mlx_lms(name: str, tmp_path: Path) -> None:
    model = Model.load(make_family(name, tmp_path / name))
    assert unbatched_because(model.model) == UNBATCHED.get(name, "")
    measured = measure_kv_cost(model.model)
    if name not in COMPUTING:
        assert trace_kv_cost(model.model) == measured
    assert in_a_batch(model) == []
    assert on_a_resident_prefix(model) == []
    assert after_a_replay(model) == []
    assert with_drafts(model) == []
    said = {token for answer in model.answers.values() for token in answer.tokens}
    assert len(said) > VARIED


@pytest.mark.parametrize("name", chosen(ONE_AT_A_TIME))
def test_mlx_lms_batch_differs_where_rows_are_served_alone(name: str, tmp_path: Path) -> None:
    # Once this fails, mlx_lm has learned to batch the architecture: move it to BATCHED.
    model = Model.load(make_family(name, tmp_path / name))
    try:
        differences = in_mlx_lms_batch(model)
    except ValueError as error:  # shapes of mask and scores, or a position for each row
        differences = [str(error)]
    assert differences


@pytest.mark.parametrize("name", chosen(INEXACT))
def test_mlx_lm_alone_depends_on_how_a_prompt_is_cut(name: str, tmp_path: Path) -> None:
    # Once this fails, the architecture may move to BATCHED.
    model = Model.load(make_family(name, tmp_path / name))
    assert cut_otherwise_in_mlx_lm(model)


@pytest.mark.parametrize("name", chosen(REFUSED))
def test_an_architecture_is_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    refusal = REFUSED[name]
    if is_unimportable(name):
        folder = make_family("llama", tmp_path / name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, "model_type": name}))
    else:
        folder = make_family(name, tmp_path / name)
    with pytest.raises(refusal.error, match=refusal.message):
        is_cuttable(read_model(folder)[0])
