"""Curves as SVG files: a panel for each figure, a line for each subject, logarithmic axes.

[bench]
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

from mlx_worker.bench.report.charts import load_matplotlib

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_worker.bench.scaling.curve import Curve, CurveLine
    from mlx_worker.bench.scaling.figures import ScalingResults
    from mlx_worker.bench.statistics import Spread

ACROSS = 3
WIDTH, HEIGHT = 3.6, 2.9
"""Panels in a row, and inches of one."""

TICKS = 6
"""Sizes that are written beneath a panel."""

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "mlx-worker", "font.size": 8}
"""Text stays text, and the same figures make the same file."""


def draw(curve: Curve, results: ScalingResults, folder: Path) -> Path:
    """Draw the curve and return the file. Raises BenchmarkError if matplotlib is missing."""
    figure = load_matplotlib()
    rows = math.ceil(len(curve.lines) / ACROSS)
    with importlib.import_module("matplotlib").rc_context(STYLE):
        drawing = figure(figsize=(ACROSS * WIDTH, rows * HEIGHT), layout="constrained")
        drawing.suptitle(curve.title)
        panels = drawing.subplots(rows, ACROSS, squeeze=False)
        for place, axes in enumerate(panels.flat):
            if place < len(curve.lines):
                _panel(axes, curve, curve.lines[place], results)
            else:
                axes.set_axis_off()
        file = folder / f"{curve.name}.svg"
        drawing.savefig(file, metadata={"Date": None})
    return file


def _panel(axes: Any, curve: Curve, line: CurveLine, results: ScalingResults) -> None:
    drawn = {
        subject.name: results.line(curve.name, subject.name, line) for subject in curve.subjects
    }
    drawn = {name: points for name, points in drawn.items() if points}
    for name, points in drawn.items():
        _line(axes, name, points)
    if drawn and line.bound == 1:
        _linear(axes, next(iter(drawn.values())))
    axes.set_xscale("log")
    axes.set_yscale("log")
    _label(axes, curve.sizes)
    if bounds := _bounds([spread for points in drawn.values() for _, spread in points]):
        axes.set_ylim(*bounds)
    axes.set(xlabel=curve.axis, ylabel=line.unit, title=line.label)
    axes.grid(alpha=0.3)
    axes.legend()


def _bounds(seen: Sequence[Spread]) -> tuple[float, float] | None:
    """Return the lowest and highest value of a panel, at least a decade apart.

    A smaller range would make a flat curve look steep.
    """
    if not seen or min(item.low for item in seen) <= 0:
        return None
    low, high = min(item.low for item in seen), max(item.high for item in seen)
    stretch = max(1.2, math.sqrt(10 * low / high))
    return low / stretch, high * stretch


def _label(axes: Any, sizes: Sequence[int]) -> None:
    """Label sizes as they are, and values as plain numbers."""
    ticker = importlib.import_module("matplotlib.ticker")
    crowded = len(sizes) > TICKS
    axes.set_xticks(sizes[::2] if crowded else sizes, minor=False)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def _line(axes: Any, name: str, points: Sequence[tuple[int, Spread]]) -> None:
    seen = [spread for _, spread in points]
    axes.errorbar(
        [size for size, _ in points],
        [item.median for item in seen],
        yerr=[
            [item.median - item.low for item in seen],
            [item.high - item.median for item in seen],
        ],
        label=name,
        marker="o",
        markersize=3,
        capsize=2,
    )


def _linear(axes: Any, points: Sequence[tuple[int, Spread]]) -> None:
    """Draw what the first point would grow to if nothing of its cost were shared."""
    (first, seen), (last, _) = points[0], points[-1]
    ends = [seen.median, seen.median * last / first]
    axes.plot([first, last], ends, color="grey", linestyle=":", label="linear")
