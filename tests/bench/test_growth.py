"""Curves: the order of measuring, slopes, the page and the pictures; structures by themselves."""

from __future__ import annotations

import contextlib
import math
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import msgspec
import pytest

from mlx_worker.bench.report.results import this_machine
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scaling import fair_queue, prompt_cache
from mlx_worker.bench.scaling.charts import draw
from mlx_worker.bench.scaling.curve import Curve, CurveLine, MeasuredAt, Order, Subject
from mlx_worker.bench.scaling.curves import curves
from mlx_worker.bench.scaling.figures import ScalingResults
from mlx_worker.bench.scaling.job import StructureJob
from mlx_worker.bench.scaling.measure import measured
from mlx_worker.bench.scaling.page import page, table
from mlx_worker.bench.scaling.slopes import ALLOWED, slopes
from mlx_worker.bench.statistics import Spread
from mlx_worker.errors import BenchmarkError
from tests.commands import run
from tests.processes import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (1, 10, 100)
EACH = CurveLine("each", "of each", "µs", 0)
ALL = CurveLine("all", "of all", "ms", 1)
SHARE = CurveLine("all", "of all, a piece", "ms", 0, per_size=True)


def exactly(value: float) -> Spread:
    return Spread(value, value, value)


# --- slopes -------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-1, 0, 1, 2])
def test_a_slope_is_the_power_of_the_size(power: int) -> None:
    found = slopes([(size, exactly(3.0 * size**power)) for size in (2, 4, 64)])
    assert [slope.median for slope in found if slope] == pytest.approx([power, power])


def test_what_is_nothing_has_no_slope() -> None:
    assert slopes([(1, exactly(0)), (2, exactly(1)), (4, exactly(1))])[0] is None


def test_worse_than_linear_is_what_no_reading_of_the_rounds_excuses() -> None:
    (steep,) = slopes([(1, Spread(1, 1, 1.1)), (10, Spread(10, 9.9, 11))])
    (noisy,) = slopes([(1, Spread(1, 1, 6)), (10, Spread(10, 9.9, 11))])
    assert steep is not None
    assert noisy is not None
    assert steep.median == noisy.median == pytest.approx(1)
    assert steep.is_worse_than(0)
    assert not noisy.is_worse_than(0)
    assert not steep.is_worse_than(1 - ALLOWED)


# --- the order of measuring ---------------------------------------------------------------


def taking_notes(name: str, notes: list[str], broken_at: int = 0) -> Subject:
    def measure(size: int, seed: str) -> Sample:
        notes.append(f"{name} {size}")
        if size == broken_at:
            raise BenchmarkError("broken")
        assert seed.endswith(f"/{size}")
        return Sample({"each": math.sqrt(size), "all": 2.0 * size})

    @contextlib.contextmanager
    def opened(largest: int) -> Iterator[MeasuredAt]:
        notes.append(f"{name} for {largest}")
        yield measure
        notes.append(f"{name} ends")

    return Subject(name, opened)


def curve(order: Order, *subjects: Subject) -> Curve:
    return Curve("pets", "pets of one house", "pets", SIZES, order, subjects, (EACH, ALL, SHARE))


def test_sizes_are_shuffled_each_round_while_everybody_stands() -> None:
    notes: list[str] = []
    both = taking_notes("a", notes), taking_notes("b", notes)
    points = list(measured(curve(Order.SHUFFLED, *both), 5, "seed"))
    assert notes[:2] == ["a for 100", "b for 100"]
    assert notes[-2:] == ["b ends", "a ends"]
    asked = notes[2:-2]
    assert [name[0] for name in asked] == ["a", "b"] * 15
    orders = {tuple(point.size for point in points if point.round == turn) for turn in range(5)}
    assert len(orders) > 1
    assert all(sorted(order) == sorted(SIZES * 2) for order in orders)


def test_subjects_apart_are_started_for_each_size() -> None:
    notes: list[str] = []
    list(measured(curve(Order.APART, taking_notes("a", notes)), 1, "seed"))
    starts = [notes[i : i + 3] for i in range(0, len(notes), 3)]
    assert sorted(starts) == sorted([f"a for {size}", f"a {size}", "a ends"] for size in SIZES)


def test_rising_sizes_add_up_and_each_round_starts_anew() -> None:
    notes: list[str] = []
    list(measured(curve(Order.RISING, taking_notes("a", notes)), 2, "seed"))
    assert notes == ["a for 100", "a 1", "a 10", "a 100", "a ends"] * 2


# --- what is made of it -------------------------------------------------------------------


@pytest.fixture
def drawn() -> Curve:
    return curve(Order.RISING, taking_notes("a", []), taking_notes("b", [], broken_at=10))


@pytest.fixture
def results(drawn: Curve) -> ScalingResults:
    points = list(measured(drawn, 2, "seed"))
    return ScalingResults(this_machine(), ["bench", "growth", "--into", "here"], "seed", points)


def cells(text: str, first: str) -> list[str]:
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [word.strip() for word in row.strip("|").split("|")][1:]


def test_a_table_has_medians_and_slopes_and_marks_what_is_worse_than_linear(
    drawn: Curve, results: ScalingResults
) -> None:
    text = table(drawn, results)
    assert cells(text, "pets") == ["1", "10", "100"]
    assert cells(text, "of each, a, µs") == ["1.00", "3.16", "10.0"]
    assert cells(text, "of all, a, ms") == ["2.00", "20.0", "200"]
    assert cells(text, "of all, b, ms") == ["2.00", "", "200"]
    assert text.splitlines()[5].endswith("| **+0.50** | **+0.50** |")
    assert text.count("| +1.00 | +1.00 |") == 1
    assert cells(text, "of all, a piece, a, ms") == ["2.00", "2.00", "2.00"]
    assert "2 failed, first: b, 10: broken" in text


def test_the_page_names_command_and_machine_and_has_every_curve(
    drawn: Curve, results: ScalingResults
) -> None:
    text = page([drawn], results)
    assert "Written by `mlx-worker bench growth --into here`" in text
    assert f"Python {results.machine.python}" in text
    assert table(drawn, results) in text


def test_the_json_file_is_all_that_was_measured(results: ScalingResults, tmp_path: Path) -> None:
    results.write(tmp_path / "figures.json")
    assert (
        msgspec.json.decode((tmp_path / "figures.json").read_bytes(), type=ScalingResults)
        == results
    )


@pytest.mark.full
def test_a_picture_has_a_panel_a_figure_and_is_the_same_for_the_same_figures(
    drawn: Curve, results: ScalingResults, tmp_path: Path
) -> None:
    first = draw(drawn, results, tmp_path).read_bytes()
    assert draw(drawn, results, tmp_path).read_bytes() == first
    said = " ".join(ET.fromstring(first).itertext())
    assert all(
        name in said for name in ("of each", "of all", "of all, a piece", "pets of one house")
    )


def test_the_curves_reach_as_far_as_they_are_meant_to() -> None:
    known = curves(Path)
    assert {name: max(item.sizes) for name, item in known.items()} == {
        "streams": 256,
        "prompt": 8192,
        "models": 8,
        "sessions": 10_000,
        "line": 10_000,
        "cached": 2000,
        "prompt-cache": 2000,
    }
    assert all(list(item.sizes) == sorted(item.sizes) for item in known.values())


# --- structures by themselves, and the command --------------------------------------------


@pytest.fixture(scope="module")
def known() -> dict[str, Curve]:
    return curves(Path)


@pytest.mark.parametrize("shape", prompt_cache.SHAPES)
@pytest.mark.parametrize("size", [1, 20])
def test_a_prompt_cache_of_any_shape_stays_as_full_as_it_is_to_be(shape: str, size: int) -> None:
    sample = prompt_cache.measure(StructureJob(size, shape, "seed"))
    assert sample.complaints == []
    assert set(sample.figures) == {"lookup", "keep", "forget"}


def test_a_line_of_any_shape_is_measured_in_a_process_of_its_own(known: dict[str, Curve]) -> None:
    for subject in known["line"].subjects:
        with subject.opened(20) as measure:
            sample = measure(20, "seed")
        assert sample.complaints == []
        assert set(sample.figures) == {"turn", "arrival"}


def test_the_shapes_that_are_drawn_are_all_there_are(known: dict[str, Curve]) -> None:
    for name, module in (("line", fair_queue), ("prompt-cache", prompt_cache)):
        assert [subject.name for subject in known[name].subjects] == list(module.SHAPES)


def grow(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "bench", "growth", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.full
def test_the_command_writes_figures_tables_and_pictures(tmp_path: Path) -> None:
    into = tmp_path / "growth"
    few = ["--curve", "line", "--rounds", "1", "--up-to", "10"]
    done = grow(*few, "--into", str(into))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in into.iterdir()) == [
        "figures.json",
        "figures.md",
        "line.svg",
    ]
    found = msgspec.json.decode((into / "figures.json").read_bytes(), type=ScalingResults)
    assert {point.size for point in found.points} == {1, 10}
    assert done.stdout in (into / "figures.md").read_text() + "\n"


def test_a_curve_that_there_is_not_is_one_line(tmp_path: Path) -> None:
    ran = run("bench", "growth", "--curve", "x", "--into", str(tmp_path))
    assert ran.code == 69
    there_are = "streams, prompt, models, sessions, line, cached, prompt-cache"
    assert ran.said == f"no curve 'x'; there are {there_are}"
