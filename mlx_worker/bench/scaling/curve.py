"""The definition of a curve: which figures are drawn against which sizes, of which subjects.

[bench]
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from mlx_worker.bench.sample import Sample

MeasuredAt: TypeAlias = "Callable[[int, str], Sample]"
"""A size and a seed in, what it cost out. Raises BenchmarkError."""


@dataclass(frozen=True)
class CurveLine:
    """One figure of the samples, as a line of the chart.

    `bound` is the slope above which the figure is worse than linear: 0 for the cost of each, 1 for
    the cost of all together; None if less is not better. `per_size`: divided by the size.
    """

    figure: str
    label: str
    unit: str
    bound: Literal[0, 1] | None
    per_size: bool = False


@dataclass(frozen=True)
class Subject:
    """A subject that is measured, and what runs meanwhile, for sizes up to the given one."""

    name: str
    opened: Callable[[int], AbstractContextManager[MeasuredAt]]


class Order(Enum):
    """The order in which sizes are measured, and what runs meanwhile.

    SHUFFLED: every subject runs from the first round to the last, and each round has an order of
    its own. APART: likewise, but each size on a subject that was started for it. RISING: each round
    starts anew, and larger sizes add to what smaller ones left behind.
    """

    SHUFFLED = "shuffled"
    APART = "apart"
    RISING = "rising"


@dataclass(frozen=True)
class Curve:
    """One size that grows; `axis` is its name with the unit."""

    name: str
    title: str
    axis: str
    sizes: tuple[int, ...]
    order: Order
    subjects: tuple[Subject, ...]
    lines: tuple[CurveLine, ...]
