"""Logits that were never computed are found at drafted positions too, before any token is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.checks.computation import ComputationFailed
from mlx_worker.engine.loading import read_model
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.drafting_harness import Row, assert_same, begin, play
from tests.rounds import variants

if TYPE_CHECKING:
    from pathlib import Path

    import mlx.core as mx

TOKENS = 30


class Spoilt:
    """A model whose wide passes lack the logits of a row behind some position, from a pass on."""

    def __init__(self, model: Any, row: int, position: int, at: int = 0) -> None:
        self._model, self._row, self._position = model, row, position
        self._left = at
        self.layers = model.layers

    def __call__(self, inputs: mx.array, cache: Any = None) -> Any:
        logits = self._model(inputs, cache=cache)
        rows, width = inputs.shape
        is_wide = rows > self._row and 1 < width <= 8 and cache and cache[0].size() > width
        if not is_wide or width <= self._position:
            return logits
        self._left -= 1
        if self._left < 0:
            logits[self._row, self._position :] = 0
        return logits


@pytest.fixture(scope="module")
def loaded(nano: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(nano)
    return model, tokenizer


def rows_of(loaded: tuple[Any, Any]) -> list[Row]:
    """A row that drafts its own answer, and a row that does not draft."""
    drafting = Row(ChatRequest([], Sampling(0), TOKENS), tuple(range(300, 340)))
    other = Row(ChatRequest([], Sampling(1, temperature=1.0), TOKENS), tuple(range(400, 420)))
    answer = play(loaded, [drafting], None).results[0].tokens
    return [Row(drafting.request, drafting.prompt, tuple(answer)), other]


@pytest.mark.parametrize("position", variants([0, 1, 6], [1]))
@pytest.mark.parametrize("at", variants([0, 1], [1]))
def test_garbage_at_a_drafted_position_is_fatal_and_sends_nothing(
    loaded: tuple[Any, Any], position: int, at: int
) -> None:
    rows = rows_of(loaded)
    plain = play(loaded, rows, None)
    played = begin((Spoilt(loaded[0], 0, position, at), loaded[1]), rows)
    with pytest.raises(ComputationFailed, match="garbage logits"):
        played.finish()
    for mine, theirs in zip(played.results, plain.results, strict=True):
        assert mine.done is None
        assert mine.tokens == theirs.tokens[: len(mine.tokens)]


def test_padding_of_a_row_that_does_not_draft_has_no_logits_to_check(
    loaded: tuple[Any, Any],
) -> None:
    rows = rows_of(loaded)
    drafted = play((Spoilt(loaded[0], 1, 1), loaded[1]), rows)
    assert drafted.engine.speculation.accepted > TOKENS / 2
    assert_same(drafted, play(loaded, rows, None))
