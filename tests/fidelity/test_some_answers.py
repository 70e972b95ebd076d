"""One scenario in every run: a few answers in company, token by token those of mlx_lm itself.

`tox -e fidelity` has thousands of them, drawn at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from mlx_worker.wire.request import Sampling
from tests.fidelity.reference import GREEDY
from tests.fidelity.scenarios import (
    Admit,
    Chunk,
    Crash,
    Cut,
    New,
    Next,
    Replay,
    Scenario,
    Steps,
    mistakes,
    play,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fidelity.reference import Model

SAMPLED: Final = Sampling(seed=11, temperature=0.8, top_p=0.9, top_k=40, repetition_penalty=1.3)
SCENARIO: Final = Scenario(
    (
        Admit(New(system=0, system_prefix=64, own=1, length=20), 12, GREEDY, None),
        Steps(3),
        Admit(New(system=0, system_prefix=64, own=2, length=33), 12, SAMPLED, None),
        Steps(4),
        Admit(Next(of=0, answer=True, own=3, length=9), 12, GREEDY, (0.4, 0.2)),
        Replay(which=1, share=0.5),
        Steps(2),
        Chunk(16),
        Admit(Cut(of=1, share=0.7), 12, SAMPLED, None),
        Steps(2),
        Crash(),
        Steps(5),
    ),
    concurrency=8,
)
FAMILIES: Final = ("tiny", "window", "recurrent")
"""One for each kind of cache: of all tokens, of the last of them, and a state in their place."""


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_in_company_are_mlx_lms_own(family: str, model_of: Callable[[str], Model]) -> None:
    model = model_of(family)
    rows = play(model, SCENARIO).rows
    assert len(rows) == 4
    assert all(row.tokens for row in rows)
    assert any(row.replays for row in rows)
    assert mistakes(model, rows) == []
