"""The results for people: a table for each scenario, then the goals.

[bench]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mlx_worker.bench.sample import FIGURES, Figure
from mlx_worker.bench.statistics import Spread, ratios, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.bench.report.goals import Outcome
    from mlx_worker.bench.report.results import Results


def scenario_table(results: Results, scenario: str) -> Group:
    """Return a table: median (lowest..highest) of each target, and the first one's ratios."""
    first, *others = targets = results.targets(scenario)
    table = Table(title=scenario, title_justify="left", title_style="bold")
    table.add_column("")
    for title in [*targets, *(f"{first} / {other}" for other in others)]:
        table.add_column(title, justify="right")
    for name in results.figures(scenario):
        figure = FIGURES.get(name, Figure(name, ""))
        rounds = {target: results.rounds(scenario, target, name) for target in targets}
        table.add_row(
            f"{figure.label} {f'[dim]{figure.unit}[/]' if figure.unit else ''}",
            *(_formatted(spread(rounds[target]), figure.digits) for target in targets),
            *(_formatted(spread(ratios(rounds[first], rounds[other])), 2) for other in others),
        )
    return Group(table, *_complaints(results, scenario))


def goal_table(outcomes: Sequence[Outcome]) -> Table:
    """Return each goal: what was measured, what is required, and whether it is met."""
    table = Table(title="goals", title_justify="left", title_style="bold")
    for title in ("goal", "against", "measured", "required", "met"):
        table.add_column(title, justify="right" if title in ("measured", "required") else "left")
    for outcome in outcomes:
        goal = outcome.goal
        word = {True: "[green]met[/]", False: "[red]not met[/]", None: "not measured"}
        sign = "≥" if goal.at_least else "≤"
        table.add_row(
            goal.name,
            goal.against,
            _formatted(outcome.seen, 2),
            f"{sign} {goal.bound:.3g}",
            word[outcome.met],
        )
    return table


def _formatted(seen: Spread | None, digits: int) -> str:
    if seen is None:
        return "-"
    middle, low, high = (f"{item:,.{digits}f}" for item in (seen.median, seen.low, seen.high))
    return middle if low == high else f"{middle} [dim]({low}..{high})[/]"


def _complaints(results: Results, scenario: str) -> list[Text]:
    """Return the number of failed requests, and the first failures."""
    lines = []
    for target in results.targets(scenario):
        said = [
            complaint
            for measurement in results.measurements
            if measurement.scenario == scenario and measurement.target == target
            for complaint in measurement.sample.complaints
        ]
        if said:
            lines.append(Text(f"{target}: {len(said)} failed, first: {said[0]}", "red"))
    return lines
