"""The script behind the table of docs/concepts/exact.md, on a tiny model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tools.exactness import OWN_BLAS, table
from tests.tools.exactness_cases import FORMATS, WAYS, Cell, Difference, measure

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fidelity


NARROW = 0.1
"""Of a margin that rounding may bridge in 16 bits; the ordinary margin is ten times that."""


@pytest.mark.parametrize("number_format", FORMATS)
def test_tiny_answers_alone_batched_cached_resumed_are_equal_or_close(
    number_format: str, tiny: Path
) -> None:
    cells = list(measure(tiny, number_format, OWN_BLAS, prompts=1, tokens=8))
    assert [(cell.way, cell.drawn) for cell in cells] == [
        (way, drawn) for way in WAYS for drawn in ("greedy", "sampled")
    ]
    margins = [difference.margin for cell in cells for difference in cell.differences]
    assert all(margin < NARROW for margin in margins)
    assert number_format != "float32" or margins == []


def test_the_table_says_where_answers_part_and_how_narrowly() -> None:
    cells = [
        Cell("m", "B", "4-bit", "greedy", "alone", answers=3, equal=3, moved=0.0, closest=0.2),
        Cell("m", "B", "4-bit", "greedy", "resumed", 3, 2, 0.01, 0.2, [Difference(7, 0.002)]),
    ]
    _, _, row = table(cells).splitlines()
    assert row == (
        "| m | B | 4-bit | greedy | 2e-01 | 3 of 3 (±0) | not measured | not measured "
        "| 2 of 3 (±1e-02), from token 7, margins ≤ 0.002 |"
    )
