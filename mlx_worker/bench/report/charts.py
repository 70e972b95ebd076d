"""The results as pictures: throughput by streams, and how long the pauses in a stream are.

matplotlib draws them; it comes with the extra `bench` and is only loaded when plots are asked for.
[bench]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mlx_worker.bench.scenarios.catalog import NAMED
from mlx_worker.bench.scenarios.streams import Streams
from mlx_worker.bench.statistics import spread
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.bench.report.results import Results

BY_STREAMS = "throughput-by-streams.svg"


def load_matplotlib() -> Any:
    """Import matplotlib. Raises BenchmarkError, which names the extra, if it is not installed."""
    try:
        figure = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise BenchmarkError("plots need matplotlib: pip install 'mlx-worker[bench]'") from error
    return figure.Figure


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw every plot that the results have figures for; return the files."""
    figure = load_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if counts := _stream_counts(results):
        drawing = figure(figsize=(7, 4), layout="constrained")
        _throughput(drawing.subplots(), results, counts)
        written.append(folder / BY_STREAMS)
        drawing.savefig(written[-1])
    for scenario in results.scenarios():
        curves = {target: results.gaps(scenario, target) for target in results.targets(scenario)}
        if any(curves.values()):
            drawing = figure(figsize=(7, 4), layout="constrained")
            _pauses(drawing.subplots(), scenario, curves)
            written.append(folder / f"pauses-{scenario}.svg")
            drawing.savefig(written[-1])
    return written


def _stream_counts(results: Results) -> dict[str, int]:
    """Return the scenarios that differ in the number of streams only."""
    return {
        name: scenario.streams
        for name in results.scenarios()
        if name.startswith("streams-") and isinstance(scenario := NAMED[name], Streams)
    }


def _throughput(axes: Any, results: Results, counts: dict[str, int]) -> None:
    targets = dict.fromkeys(item for name in counts for item in results.targets(name))
    for target in targets:
        points = [
            (count, seen)
            for name, count in counts.items()
            if (seen := spread(results.rounds(name, target, "throughput")))
        ]
        axes.errorbar(
            [count for count, _ in points],
            [seen.median for _, seen in points],
            yerr=[
                [seen.median - seen.low for _, seen in points],
                [seen.high - seen.median for _, seen in points],
            ],
            label=target,
            marker="o",
            capsize=3,
        )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="streams", ylabel="tokens a second", title="throughput by streams")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()


def _pauses(axes: Any, scenario: str, curves: dict[str, list[float]]) -> None:
    for target, percentiles in curves.items():
        if percentiles:
            axes.plot(percentiles, range(101), label=target)
    axes.set_xscale("log")
    axes.set(
        xlabel="pause between two arrivals of a stream, ms",
        ylabel="share of pauses not longer, %",
        title=f"pauses in a stream: {scenario}",
    )
    axes.grid(alpha=0.3)
    axes.legend()
