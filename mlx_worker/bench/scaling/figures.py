"""The samples of `mlx-worker bench growth`, as tables read them and as the JSON file has them.

A point is one sample at one size. [bench]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from mlx_worker.bench.report.results import Machine
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.statistics import Spread, spread

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.bench.scaling.curve import CurveLine


class Point(msgspec.Struct, frozen=True):
    """One sample, with its curve, subject, size and round; rounds count from 0."""

    curve: str
    subject: str
    size: int
    round: int
    sample: Sample


class ScalingResults(msgspec.Struct, frozen=True):
    """One run; points that failed have samples without figures."""

    machine: Machine
    command: list[str]
    seed: str
    points: list[Point]

    def line(self, curve: str, subject: str, line: CurveLine) -> list[tuple[int, Spread]]:
        """Return rising sizes with the spread of the figure's values, if they have any."""
        sizes = sorted({item.size for item in self._of(curve, subject)})
        seen = [(size, spread(self._rounds(curve, subject, line, size))) for size in sizes]
        return [(size, found) for size, found in seen if found is not None]

    def complaints(self, curve: str) -> list[str]:
        """Return what went wrong, with the subject and the size."""
        return [
            f"{point.subject}, {point.size}: {complaint}"
            for point in self.points
            if point.curve == curve
            for complaint in point.sample.complaints
        ]

    def write(self, file: Path) -> None:
        """Write the results as JSON."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        file.write_bytes(text + b"\n")

    def _of(self, curve: str, subject: str) -> list[Point]:
        return [point for point in self.points if (point.curve, point.subject) == (curve, subject)]

    def _rounds(self, curve: str, subject: str, line: CurveLine, size: int) -> list[float]:
        by = size if line.per_size else 1
        return [
            item.sample.figures.get(line.figure, math.nan) / by
            for item in self._of(curve, subject)
            if item.size == size
        ]
