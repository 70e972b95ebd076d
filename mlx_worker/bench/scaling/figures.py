"""Everything that was measured of growth, as it is asked for and as it is written down. [bench]"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from mlx_worker.bench.report.results import Machine
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.statistics import Spread, spread

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.bench.scaling.curve import Line


class Point(msgspec.Struct, frozen=True):
    """One sample, and what it is one of; rounds count from 0."""

    curve: str
    subject: str
    size: int
    round: int
    sample: Sample


class Growth(msgspec.Struct, frozen=True):
    """One run; points that failed have samples without figures."""

    machine: Machine
    command: list[str]
    seed: str
    points: list[Point]

    def line(self, curve: str, subject: str, line: Line) -> list[tuple[int, Spread]]:
        """Sizes, rising, and what the rounds brought at each; only those that have the figure."""
        sizes = sorted({it.size for it in self._of(curve, subject)})
        seen = [(size, spread(self._rounds(curve, subject, line, size))) for size in sizes]
        return [(size, it) for size, it in seen if it is not None]

    def complaints(self, curve: str) -> list[str]:
        """What went wrong, said of whom and at which size."""
        return [
            f"{it.subject}, {it.size}: {complaint}"
            for it in self.points
            if it.curve == curve
            for complaint in it.sample.complaints
        ]

    def write(self, file: Path) -> None:
        """As JSON."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        file.write_bytes(text + b"\n")

    def _of(self, curve: str, subject: str) -> list[Point]:
        return [it for it in self.points if (it.curve, it.subject) == (curve, subject)]

    def _rounds(self, curve: str, subject: str, line: Line, size: int) -> list[float]:
        by = size if line.per_size else 1
        return [
            it.sample.figures.get(line.figure, math.nan) / by
            for it in self._of(curve, subject)
            if it.size == size
        ]
