"""Some hundred answers of a model over two processes, each compared with one process.

A pipeline split computes the same numbers. A tensor split adds them in another order: where the two
likeliest tokens are nearly equal, the other one may win. Such ties are counted and shown; anything
else is a mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from tests.engine.ranks.harness import run_ranks
from tests.engine.ranks.scenarios import COMPANY, CONCURRENCY, company
from tests.fidelity import tally
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.wire.rank_place import Split

pytestmark = [pytest.mark.fidelity, pytest.mark.process]

TIE = 1e-4
"""Logits of the two likeliest tokens that differ by less are as good as equal."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("pipelined", tmp_path_factory.mktemp("models") / "pipelined")


@pytest.mark.timeout(0)  # `run_ranks` has a limit
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("split", ["pipeline", "tensor"])
def test_answers_in_company_are_those_of_one_process(
    folder: Path, split: Split, ranks: int
) -> None:
    if split == "tensor" and ranks == 3:
        pytest.skip("four heads are not divided by three")
    model, tokenizer, _ = read_model(folder, dtype="float32")
    engine = Engine(model, tokenizer, context_length=8192, max_concurrency=CONCURRENCY)
    prompts: dict[int, list[int]] = {}
    admit = engine.admit

    def recording(id_: int, request: Any, prompt: Any, **more: Any) -> Any:
        prompts[id_] = prompt.tokens
        return admit(id_, request, prompt, **more)

    engine.admit = recording  # type: ignore[method-assign]
    expected = company(engine, tokenizer)
    answers = {int(id_): said for id_, said in run_ranks(folder, split, ranks, "company").items()}
    ties, wrong = 0, []
    for id_ in range(COMPANY):
        alone, together = tokens_of(expected, id_), tokens_of(answers, id_)
        at = first_difference(alone, together)
        if at is None:
            continue
        if split == "tensor" and gap(model, [*prompts[id_], *alone[:at]]) < TIE:
            ties += 1
        else:
            wrong.append((id_, at))
    print(f"{split} over {ranks}: {COMPANY} answers, {ties} ties, {len(wrong)} mistakes")  # noqa: T201
    tally.note(f"{split} over {ranks} ranks", COMPANY, len(wrong))
    assert not wrong


def tokens_of(said: dict[int, list[Any]], id_: int) -> list[int]:
    return [token for token in said.get(id_, []) if isinstance(token, int)]


def first_difference(one: list[int], other: list[int]) -> int | None:
    """Where two answers part; one that was cancelled may end before the other."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (mine, theirs) in enumerate(pairs) if mine != theirs), None)


def gap(model: Any, tokens: list[int]) -> float:
    """The difference of the two largest logits behind these tokens."""
    first, second = sorted(model(mx.array([tokens]))[0, -1].tolist())[:-3:-1]
    return float(first - second)
