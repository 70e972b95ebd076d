"""An engine whose model is split over processes generates what it generates in one process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from tests.engine.ranks.harness import run_ranks
from tests.engine.ranks.scenarios import CONCURRENCY, run_all
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path


CASES = {
    "heads": ("pipelined", "tensor"),
    "layers": ("pipelined", "pipeline"),
    "latent heads": ("latent", "tensor"),
    "latent layers": ("latent", "pipeline"),
    "recurrent layers": ("delta", "pipeline"),
}
"""Families of `tests.synthetic_models`, and splits that mlx_lm has of them."""


@pytest.mark.full
@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_say_what_one_process_says(case: str, tmp_path: Path) -> None:
    family, split = CASES[case]
    folder = make(family, tmp_path / family)
    model, tokenizer, _ = read_model(folder, dtype="float32")
    engine = Engine(model, tokenizer, context_length=8192, max_concurrency=CONCURRENCY)
    alone = json.loads(json.dumps(run_all(engine, tokenizer)))
    together = run_ranks(folder, "pipeline" if split == "pipeline" else "tensor", 2, "run_all")
    for scenario, said in together.items():
        assert said == alone[scenario], scenario
