"""The curves as a Markdown page: machine, command, and a table of each with its slopes.

[bench]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.bench.scaling.slopes import ALLOWED, Slope, slopes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlx_worker.bench.scaling.curve import Curve, CurveLine
    from mlx_worker.bench.scaling.figures import ScalingResults
    from mlx_worker.bench.statistics import Spread

HEAD = """\
# Growth: the figures

Written by `mlx-worker {command}`; read [`growth.md`](../growth.md) first. {machine}

A cell is the median of the rounds (lowest..highest). The row beneath has the slope from the size
before: the power of the size by which the figure grows, 0 where it does not, 1 where it doubles
with the size. **Bold**: worse than linear in all, however the rounds are read; that is a slope more
than {allowed} above 0 for what each one costs, above 1 for what all of them cost.
"""


def page(curves: Iterable[Curve], results: ScalingResults) -> str:
    """Return the whole page."""
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    said = f"{machine.cores} cores ({machine.processor}), Python {machine.python}, {versions}."
    head = HEAD.format(command=" ".join(results.command), machine=said, allowed=ALLOWED)
    return "\n".join([head, *(table(curve, results) for curve in curves)])


def table(curve: Curve, results: ScalingResults) -> str:
    """Return the table of one curve."""
    sizes = [f"{size:,}" for size in curve.sizes]
    rows = [
        f"## {curve.name}: {curve.title}\n",
        _row([curve.axis, *sizes]),
        _row(["---", *("---:" for _ in sizes)]),
    ]
    for line in curve.lines:
        for subject in curve.subjects:
            points = results.line(curve.name, subject.name, line)
            if points:
                of_subject = "" if len(curve.subjects) == 1 else f", {subject.name}"
                rows += _rows(f"{line.label}{of_subject}, {line.unit}", line, curve.sizes, points)
    wrong = results.complaints(curve.name)
    if wrong:
        rows += ["", f"{len(wrong)} failed, first: {wrong[0]}"]
    return "\n".join([*rows, ""])


def _rows(
    name: str, line: CurveLine, sizes: Sequence[int], points: Sequence[tuple[int, Spread]]
) -> list[str]:
    seen = dict(points)
    steps = dict(zip([size for size, _ in points[1:]], slopes(points), strict=True))
    return [
        _row([name, *(_cell(seen.get(size)) for size in sizes)]),
        _row(["slope", *(_steep(steps.get(size), line) for size in sizes)]),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(seen: Spread | None) -> str:
    if seen is None:
        return ""
    middle, low, high = (_short(item) for item in (seen.median, seen.low, seen.high))
    return middle if low == high else f"{middle} ({low}..{high})"


def _short(value: float) -> str:
    """Return the value with three significant digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2  # noqa: PLR2004
    return f"{value:,.{digits}f}"


def _steep(slope: Slope | None, line: CurveLine) -> str:
    if slope is None:
        return ""
    said = f"{slope.median:+.2f}"
    return f"**{said}**" if line.bound is not None and slope.is_worse_than(line.bound) else said
