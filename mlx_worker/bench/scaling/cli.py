"""The command `mlx-worker bench growth`: measure, print, draw, write files.

[bench]
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_worker.bench.ending import ended_by_sigterm
from mlx_worker.bench.report.charts import load_matplotlib
from mlx_worker.bench.report.results import this_machine
from mlx_worker.bench.scaling.charts import draw
from mlx_worker.bench.scaling.curves import curves
from mlx_worker.bench.scaling.figures import ScalingResults
from mlx_worker.bench.scaling.measure import measured
from mlx_worker.bench.scaling.page import page, table
from mlx_worker.bench.synthetic.on_demand import models
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_worker.bench.scaling.curve import Curve
    from mlx_worker.bench.scaling.figures import Point


@dataclass(frozen=True)
class ScalingOptions:
    """What was asked for. No `names`: all curves; no `up_to`: all their sizes."""

    names: Sequence[str]
    rounds: int
    up_to: int | None
    into: Path


def run(options: ScalingOptions) -> None:
    """Measure, print each curve and write all files.

    Raises BenchmarkError for what cannot be measured.
    """
    load_matplotlib()  # before minutes of work
    seed = secrets.token_hex(8)
    points: list[Point] = []
    with ended_by_sigterm(), models() as model:
        known = curves(model)
        chosen = _chosen(known, options)
        for curve in chosen:
            for point in measured(curve, options.rounds, seed):
                _print_progress(point, options.rounds)
                points.append(point)
    results = ScalingResults(this_machine(), sys.argv[1:], seed, points)
    options.into.mkdir(parents=True, exist_ok=True)
    results.write(options.into / "figures.json")
    (options.into / "figures.md").write_text(page(chosen, results), encoding="utf-8")
    for curve in chosen:
        draw(curve, results, options.into)
        sys.stdout.write(table(curve, results) + "\n")


def _chosen(known: dict[str, Curve], options: ScalingOptions) -> list[Curve]:
    """Return the selected curves, with those of their sizes that are selected."""
    for name in options.names:
        if name not in known:
            raise BenchmarkError(f"no curve {name!r}; there are {', '.join(known)}", param="curve")
    up_to = options.up_to or sys.maxsize
    cut = [
        replace(known[name], sizes=tuple(size for size in known[name].sizes if size <= up_to))
        for name in options.names or known
    ]
    return [item for item in cut if item.sizes]


def _print_progress(point: Point, rounds: int) -> None:
    """Print one line of progress."""
    how = f" ({point.sample.complaints[0]})" if point.sample.complaints else ""
    what = f"{point.curve} {point.size}: {point.subject}, round {point.round + 1} of {rounds}"
    sys.stderr.write(f"{what}{how}\n")
