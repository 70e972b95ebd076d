"""Random scenarios, family by family: every answer is mlx_lm's own.

A case is one request whose tokens and text were compared. MLX_WORKER_TEST_ROUNDS sets how many
there are: `tox -e fidelity` has 2,000 and more.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fidelity import tally
from tests.fidelity.families import BATCHED, UNBATCHED
from tests.fidelity.scenarios import Scenario, Stage, mistakes, play, scenarios
from tests.rounds import rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from tests.fidelity.reference import Model

pytestmark = pytest.mark.fidelity


CASES = rounds(240, 240, 2000)
PHASES = [Phase.generate, *([Phase.shrink] if "MLX_WORKER_TEST_SHRINK" in os.environ else [])]
"""A failing scenario is made smaller on demand only: it takes minutes."""

REQUESTS = 8
"""Requests of a scenario."""

ROUND = 5
"""Scenarios that hypothesis draws from one seed: it likes to vary what it has drawn."""


def compare(
    model: Model, cases: int, concurrency: SearchStrategy[int], kind: type[Stage] = Stage
) -> None:
    """Play scenarios until so many answers have been compared; the same ones every time."""
    name = model.name
    enough = tally.compared[name] + cases
    for number in itertools.count():
        if tally.compared[name] >= enough:
            return

        @seed(number)
        @settings(
            max_examples=ROUND,
            database=None,
            phases=PHASES,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(scenarios(REQUESTS, concurrency))
        def every_answer_is_mlx_lms(scenario: Scenario) -> None:
            heard = [row for row in play(model, scenario, kind).rows if row.tokens]
            wrong = mistakes(model, heard)
            if not tally.wrong[name]:  # else hypothesis is making the scenario smaller
                tally.note(name, len(heard), len(wrong))
            assert not wrong, "\n".join(wrong)

        every_answer_is_mlx_lms()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("family", BATCHED)
def test_every_answer_is_mlx_lms_in_any_company(
    family: str, model_of: Callable[[str], Model]
) -> None:
    compare(
        model_of(family), round(CASES * BATCHED[family].share), st.sampled_from([8, 8, 8, 3, 2, 1])
    )


@pytest.mark.timeout(0)
@pytest.mark.parametrize("family", UNBATCHED)
def test_what_cannot_be_batched_is_exact_one_at_a_time(
    family: str, model_of: Callable[[str], Model]
) -> None:
    compare(model_of(family), round(CASES * UNBATCHED[family].share), st.just(1))
