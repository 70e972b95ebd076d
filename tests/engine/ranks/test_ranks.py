"""An engine whose model is split over processes generates what it generates in one process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from tests.engine.ranks.harness import run_ranks
from tests.engine.ranks.scenarios import CONCURRENCY, run_all
from tests.rounds import variants
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.wire.rank_place import Split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("pipelined", tmp_path_factory.mktemp("models") / "pipelined")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Any:
    model, tokenizer, _ = read_model(folder, dtype="float32")
    engine = Engine(model, tokenizer, context_length=8192, max_concurrency=CONCURRENCY)
    return json.loads(json.dumps(run_all(engine, tokenizer)))


@pytest.mark.process
@pytest.mark.parametrize("split", variants(["pipeline", "tensor"], ["tensor"]))
def test_two_ranks_say_what_one_process_says(folder: Path, alone: Any, split: Split) -> None:
    assert run_ranks(folder, split, 2, "run_all") == alone
