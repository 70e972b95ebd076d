"""What is made of the samples: tables, goals, JSON, pictures."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import msgspec
import pytest
from rich.console import Console

from mlx_worker.bench.interleave import Measurement
from mlx_worker.bench.report.charts import draw
from mlx_worker.bench.report.goals import GOALS, outcomes
from mlx_worker.bench.report.results import Results, this_machine
from mlx_worker.bench.report.tables import goal_table, scenario_table
from mlx_worker.bench.sample import FIGURES, Sample
from mlx_worker.bench.scenarios.catalog import NAMED

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType


def sample(figures: dict[str, float], complaints: tuple[str, ...] = ()) -> Sample:
    return Sample(figures, [float(i) for i in range(1, 102)], list(complaints))


@pytest.fixture
def results() -> Results:
    """Three rounds; the machine was half as fast in the second."""
    measurements = [
        Measurement("streams-32", target, turn, sample({"throughput": speed / drift, "cpu": cpu}))
        for turn, drift in enumerate((1, 2, 1))
        for target, speed, cpu in (
            ("node", 6000.0, 140.0),
            ("mlx_lm.server", 3000.0, 300.0),
            ("limit", 8000.0, 130.0),
        )
    ]
    measurements.append(Measurement("crash", "node", 0, sample({"lost": 8.0}, ("stream lost",))))
    spared = sample({"child_ready": 80.0})
    measurements.append(Measurement("crash", "node with standby", 0, spared))
    return Results(this_machine(), ["bench"], "made", "seed", measurements)


def printed(what: RenderableType) -> str:
    console = Console(width=200, record=True)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def row(text: str, *words: str) -> list[str]:
    line = next(line for line in text.splitlines() if all(word in line for word in words))
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_a_table_has_medians_spreads_and_ratios_of_the_same_round(results: Results) -> None:
    cells = row(printed(scenario_table(results, "streams-32")), "throughput")
    assert cells == [
        "throughput tokens/s",
        "6,000 (3,000..6,000)",
        "3,000 (1,500..3,000)",
        "8,000 (4,000..8,000)",
        "2.00",
        "0.75",
    ]


def test_without_the_plain_node_ratios_are_those_of_the_first_target(results: Results) -> None:
    for target, speed in (("node with drafts", 900.0), ("node without drafts", 300.0)):
        figures = sample({"throughput_1": speed})
        results.measurements.append(Measurement("speculation-json", target, 0, figures))
    cells = row(printed(scenario_table(results, "speculation-json")), "throughput")
    assert cells == ["throughput, 1 row tokens/s", "900", "300", "3.00"]
    assert row(printed(goal_table(outcomes(results))), "drafts at 1, json")[-1] == "met"


def test_complaints_are_told_under_the_table(results: Results) -> None:
    assert "node: 1 failed, first: stream lost" in printed(scenario_table(results, "crash"))
    assert "failed" not in printed(scenario_table(results, "streams-32"))


def test_goals_are_judged_by_ratios_and_what_was_not_measured_says_so(results: Results) -> None:
    text = printed(goal_table(outcomes(results)))
    assert row(text, "throughput at 32", "limit") == [
        "throughput at 32",
        "limit",
        "0.75",
        "≥ 0.9",
        "not met",
    ]
    assert row(text, "throughput at 32", "mlx_lm.server")[-1] == "met"
    assert row(text, "throughput at 32", "vllm-mlx")[-1] == "not measured"
    assert row(text, "crash to loaded again")[-3:] == ["80.00", "≤ 500", "met"]
    assert "exec to listening" not in text, "nobody asked for that scenario"


def test_a_difference_is_taken_round_by_round(results: Results) -> None:
    for measurement in results.measurements:
        if measurement.target == "node":
            measurement.sample.figures["cpu_child"] = 136.0
    (seen,) = (outcome for outcome in outcomes(results) if outcome.goal.how == "difference")
    assert seen.seen is not None
    assert seen.seen.median == 6.0
    assert seen.met is True


def test_every_goal_is_about_a_scenario_and_a_figure_that_exist() -> None:
    assert {goal.scenario for goal in GOALS} <= set(NAMED)
    assert {goal.figure for goal in GOALS} <= set(FIGURES)


def test_the_json_file_is_the_results(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "results.json")
    assert msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Results) == results


@pytest.mark.full
def test_plots_are_svg_with_a_line_for_each_target(results: Results, tmp_path: Path) -> None:
    files = draw(results, tmp_path / "plots")
    names = ["pauses-crash.svg", "pauses-streams-32.svg", "throughput-by-streams.svg"]
    assert sorted(file.name for file in files) == names
    for file in files:
        assert ET.parse(file).getroot().tag.endswith("svg")
    drawn = (tmp_path / "plots" / "throughput-by-streams.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("node", "mlx_lm.server", "limit"))


def test_without_matplotlib_plots_are_refused_before_any_work_and_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from mlx_worker.cli.main import main\n"
        "sys.argv = ['mlx-worker', 'bench', '--plots', 'nowhere']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 69
    assert done.stderr == "mlx-worker: plots need matplotlib: pip install 'mlx-worker[bench]'\n"
