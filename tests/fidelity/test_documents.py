"""Random schemas, and a model that says anything: every document fits, beside free rows too.

40 schemas in the ordinary suite, 200 where it is to be proven (tox -e fidelity).
"""

from __future__ import annotations

import json
import os
from random import Random
from typing import TYPE_CHECKING

import jsonschema
import pytest

from tests.bound import Answer, Bench, asked, schema
from tests.fidelity import tally
from tests.made_models import make
from tests.schemas import random_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire import messages as m

DOCUMENTS = 200 if "MLX_WORKER_FIDELITY" in os.environ else 40
SCHEMAS = [random_schema(Random(seed)) for seed in range(DOCUMENTS)]
ROUND = 8
"""Documents at a time."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(make("tiny", tmp_path_factory.mktemp("models") / "tiny"))


def bound(number: int) -> m.ChatRequest:
    """Every fourth is greedy, with a penalty that lets it come to the end of a fraction."""
    shape = schema(SCHEMAS[number])
    if number % 4:
        return asked(shape, seed=number, temperature=1.0, max_tokens=1500)
    return asked(shape, frequency_penalty=2.0, max_tokens=1500)


def free() -> list[m.ChatRequest]:
    return [asked(seed=seed, temperature=seed % 2, max_tokens=150) for seed in range(8)]


def misfits(answers: Sequence[Answer], numbers: Sequence[int]) -> list[str]:
    wrong = []
    for number, answer in zip(numbers, answers, strict=True):
        try:
            assert answer.finish == "stop", answer
            jsonschema.validate(json.loads(answer.text), SCHEMAS[number])
        except (AssertionError, ValueError, jsonschema.ValidationError) as error:
            wrong.append(f"{SCHEMAS[number]}: {answer.text!r}: {error}")
    return wrong


@pytest.mark.timeout(0)
def test_every_document_fits_its_schema_alone_and_beside_free_rows(
    bench: Bench,
) -> None:
    undisturbed = [it.tokens for it in bench.play(*free())]
    wrong: list[str] = []
    changed = 0
    different = 0
    for first in range(0, DOCUMENTS, ROUND):
        numbers = range(first, min(first + ROUND, DOCUMENTS))
        alone = bench.play(*map(bound, numbers))
        beside = bench.play(*free(), *map(bound, numbers))
        wrong += misfits(alone, numbers) + misfits(beside[8:], numbers)
        changed += sum(it.tokens != was for it, was in zip(beside[:8], undisturbed, strict=True))
        different += [it.tokens for it in beside[8:]] != [it.tokens for it in alone]
    tally.lines.append(
        f"documents: {DOCUMENTS} schemas, {2 * DOCUMENTS - len(wrong)} valid of {2 * DOCUMENTS}"
        f" (half of them beside 8 free rows); free rows that changed: {changed}"
    )
    assert wrong == []
    assert (changed, different) == (0, 0)
