"""Measure curves: choose the next size and subject, and take the sample.

[bench]
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scaling.curve import Curve, MeasuredAt, Order, Subject
from mlx_worker.bench.scaling.figures import Point
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def measured(curve: Curve, rounds: int, seed: str) -> Iterator[Point]:
    """Yield every point as it comes. Raises BenchmarkError if a subject cannot be started."""
    match curve.order:
        case Order.SHUFFLED:
            yield from _shuffled(curve, rounds, seed)
        case Order.APART:
            yield from _apart(curve, rounds, seed)
        case Order.RISING:
            yield from _rising(curve, rounds, seed)


def _shuffled(curve: Curve, rounds: int, seed: str) -> Iterator[Point]:
    with contextlib.ExitStack() as stack:
        standing = _standing(curve, stack)
        for turn in range(rounds):
            for size in _order(curve, turn, seed):
                for subject, measure in standing.items():
                    yield _point(curve, subject, measure, size, turn, seed)


def _apart(curve: Curve, rounds: int, seed: str) -> Iterator[Point]:
    for turn in range(rounds):
        for size in _order(curve, turn, seed):
            for subject in curve.subjects:
                with subject.opened(size) as measure:
                    yield _point(curve, subject, measure, size, turn, seed)


def _rising(curve: Curve, rounds: int, seed: str) -> Iterator[Point]:
    for turn in range(rounds):
        with contextlib.ExitStack() as stack:
            standing = _standing(curve, stack)
            for size in curve.sizes:
                for subject, measure in standing.items():
                    yield _point(curve, subject, measure, size, turn, seed)


def _standing(curve: Curve, stack: contextlib.ExitStack) -> Mapping[Subject, MeasuredAt]:
    largest = max(curve.sizes)
    return {subject: stack.enter_context(subject.opened(largest)) for subject in curve.subjects}


def _order(curve: Curve, turn: int, seed: str) -> list[int]:
    sizes = list(curve.sizes)
    random.Random(f"{seed}/{curve.name}/{turn}").shuffle(sizes)  # noqa: S311  (no secret)
    return sizes


def _point(
    curve: Curve, subject: Subject, measure: MeasuredAt, size: int, turn: int, seed: str
) -> Point:
    """Measure one point; a point that fails has no figures, and the others go on."""
    try:
        sample = measure(size, f"{seed}/{curve.name}/{turn}/{size}")
    except BenchmarkError as error:
        sample = Sample({}, complaints=[error.message])
    return Point(curve.name, subject.name, size, turn, sample)
