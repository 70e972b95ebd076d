"""Random schemas, and a model that says anything: every document fits, beside free rows too.

40 schemas in the ordinary suite, 200 where it is to be proven (tox -e fidelity).
"""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

import jsonschema_rs
import pytest

from tests.fidelity import tally
from tests.rounds import rounds
from tests.schemas import random_schema
from tests.structured_harness import Answer, EngineHarness, asked, schema
from tests.synthetic_models import make

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.request import ChatRequest

pytestmark = pytest.mark.fidelity


DOCUMENTS = rounds(40, 40, 200)
SCHEMAS = [random_schema(Random(seed)) for seed in range(DOCUMENTS)]
ROUND = FREE = 8
"""Documents at a time, and free rows beside them."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> EngineHarness:
    return EngineHarness(make("tiny", tmp_path_factory.mktemp("models") / "tiny"))


def bound(number: int) -> ChatRequest:
    """Every fourth is greedy, with a penalty that lets it come to the end of a fraction."""
    shape = schema(SCHEMAS[number])
    if number % 4:
        return asked(shape, seed=number, temperature=1.0, max_tokens=1500)
    return asked(shape, frequency_penalty=2.0, max_tokens=1500)


def free() -> list[ChatRequest]:
    return [asked(seed=seed, temperature=seed % 2, max_tokens=150) for seed in range(FREE)]


def misfits(answers: Sequence[Answer], numbers: Sequence[int]) -> list[str]:
    wrong = []
    for number, answer in zip(numbers, answers, strict=True):
        try:
            assert answer.finish == "stop", answer
            jsonschema_rs.validate(SCHEMAS[number], json.loads(answer.text))
        except (AssertionError, ValueError, jsonschema_rs.ValidationError) as error:
            wrong.append(f"{SCHEMAS[number]}: {answer.text!r}: {error}")
    return wrong


def differences(heard: Sequence[Answer], expected: Sequence[Answer]) -> int:
    return sum(mine.tokens != theirs.tokens for mine, theirs in zip(heard, expected, strict=True))


@pytest.mark.timeout(0)
def test_every_document_fits_its_schema_alone_and_beside_free_rows(
    bench: EngineHarness,
) -> None:
    undisturbed = bench.play(*free())
    wrong: list[str] = []
    rounds = changed = different = 0
    for first in range(0, DOCUMENTS, ROUND):
        numbers = range(first, min(first + ROUND, DOCUMENTS))
        alone = bench.play(*map(bound, numbers))
        beside = bench.play(*free(), *map(bound, numbers))
        rounds += 1
        wrong += misfits(alone, numbers)
        changed += differences(beside[:FREE], undisturbed)
        different += differences(beside[FREE:], alone)
    tally.note("documents", DOCUMENTS, len(wrong))
    tally.note("documents beside free rows", DOCUMENTS, different)
    tally.note("free rows beside documents", rounds * FREE, changed)
    assert wrong == []
    assert (changed, different) == (0, 0)
