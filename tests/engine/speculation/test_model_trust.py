"""What a draft model costs by how often it is right: in computed time, without a model."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from mlx_worker.engine.speculation.draft_model import DraftModel
from mlx_worker.engine.speculation.ladder import Ladder
from mlx_worker.engine.speculation.model_trust import ModelRecord, ModelTrust
from mlx_worker.engine.speculation.speculation import WIDEST, Speculation

STEP = 1.0
SLOPE = 0.05
"""Of a step, for each further token that a pass reads."""
TOKENS = 120


class Unread:
    """A draft model that is never read, with the logits of as many tokens as a text has bytes."""

    layers: tuple[Any, ...] = ()

    def __call__(self, inputs: Any, cache: Any = None) -> Any:
        assert not cache
        return mx.zeros((*inputs.shape, 256))


def ladder(step: float) -> Ladder:
    costs = {(1, width): step * (1 + SLOPE * (width - 1)) for width in (1, 2, 4, 8)}
    return Ladder(costs, clock=lambda: 0.0)


def seconds_of_rows(share: float, right: int, rows: int) -> list[float]:
    """Return what rows of some tokens take, one after the other, in steps without drafts.

    A pass of the draft model takes `share` of the model's; the first `right` tokens of a draft are
    right.
    """
    model = DraftModel(Unread(), ladder(share), 256, None, 1.0)
    speculation = Speculation(ladder(STEP), 10_000, 256, model)
    record = ModelRecord()
    spent: list[float] = []
    for _ in range(rows):
        trust, tokens, seconds = ModelTrust(record), 0, 0.0
        while tokens < TOKENS:
            width, is_asked = 1, False
            if trust.may_ask(tokens):
                width, is_asked = speculation.plan(1, (), 1, WIDEST, [trust.hit_rate])
            seconds += STEP * (1 + SLOPE * (width - 1))
            tokens += 1
            if not is_asked:
                trust.forget()
                continue
            seconds += model.cost(1, width - 1)
            tokens += min(right, width - 1)
            trust.add(width - 1, min(right, width - 1), tokens)
        spent.append(seconds / (tokens * STEP))
    return spent


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_model_that_is_never_right_is_found_out_once(share: float) -> None:
    first, *others = seconds_of_rows(share, right=0, rows=40)
    assert first > 1
    assert sum(others[5:]) / len(others[5:]) < 1.01


@pytest.mark.parametrize("right", [3, 7])
def test_model_that_is_right_is_asked_by_every_row(right: int) -> None:
    spent = seconds_of_rows(0.1, right, rows=10)
    assert max(spent) < 0.6


def test_row_begins_with_what_is_known_of_others_and_goes_back_to_it() -> None:
    record = ModelRecord()
    first = ModelTrust(record)
    assert first.hit_rate == 0.75
    for tokens in range(40):
        first.add(4, 0, tokens)
    second = ModelTrust(record)
    assert second.hit_rate == pytest.approx(record.hit_rate)
    assert second.hit_rate < 0.1
    second.add(7, 7, 7)
    known = second.hit_rate
    for _ in range(200):
        second.forget()
    assert record.hit_rate < second.hit_rate < known


def test_model_that_was_never_right_is_tried_again() -> None:
    record = ModelRecord()
    row = ModelTrust(record)
    for tokens in range(100):
        row.add(4, 0, tokens)
    low = record.hit_rate
    for _ in range(5000):
        row.forget()
    assert record.hit_rate > 0.5 > low
