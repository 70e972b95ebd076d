"""The order of measurements, with targets that only take notes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_worker.bench.interleave import Plan, measured
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.catalog import NAMED
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.bench.scenarios.catalog import AnyScenario
    from mlx_worker.bench.scenarios.scenario import Kind


class Noting:
    """Writes down what happens to it."""

    def __init__(self, name: str, kind: Kind, notes: list[str], broken: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.notes = notes
        self.broken = broken
        self.seeds: list[str] = []
        self.kept: list[Path | None] = []

    @contextlib.contextmanager
    def opened(self, models: Sequence[Path], kept: Path | None = None) -> Iterator[Noting]:
        self.kept.append(kept)
        self.notes.append(f"{self.name} starts on {len(models)} {models[0].name}")
        yield self
        self.notes.append(f"{self.name} stops")

    def measure(self, scenario: AnyScenario, seed: str, life: int = 0) -> Sample:
        self.seeds.append(seed)
        if self.broken:
            raise BenchmarkError(f"cannot do {scenario.synthetic}")
        if scenario.lives > 1:
            self.notes.append(f"{self.name} lives for the {life + 1}. time")
            return Sample({"cold_4000": 50.0} if life == 0 else {"restarted_4000": 5.0})
        return Sample({"throughput": 1.0})


def run(names: list[str], targets: list[Noting], notes: list[str], rounds: int = 2) -> list[Sample]:
    scenarios = {name: NAMED[name] for name in names}
    samples = []
    for scenario in measured(Plan(scenarios, targets, rounds, "seed", Path)):
        notes.append(f"{scenario.scenario} {scenario.target} {scenario.round}")
        samples.append(scenario.sample)
    return samples


def test_targets_take_turns_and_every_other_round_goes_backwards() -> None:
    notes: list[str] = []
    run(["streams-8"], [Noting("a", "node", notes), Noting("b", "peer", notes)], notes, 3)
    assert notes[:2] == ["a starts on 1 nano", "b starts on 1 nano"]
    assert notes[2:8] == [
        f"streams-8 {turn}" for turn in ("a 0", "b 0", "b 1", "a 1", "a 2", "b 2")
    ]
    assert notes[8:] == ["b stops", "a stops"]


def test_whoever_cannot_play_a_scenario_is_left_out() -> None:
    notes: list[str] = []
    targets = [Noting("a", "node", notes), Noting("b", "peer", notes), Noting("c", "limit", notes)]
    run(["two-models"], targets, notes, rounds=1)
    assert notes == ["a starts on 2 nano", "two-models a 0", "a stops"]


def test_nobody_kills_the_children_of_a_node_that_runs_already() -> None:
    notes: list[str] = []
    run(["crash", "start", "two-models"], [Noting("a", "running", notes)], notes)
    assert notes == []


def test_a_fresh_server_is_started_for_each_round() -> None:
    notes: list[str] = []
    run(["crash"], [Noting("a", "node", notes)], notes)
    each = ["a starts on 1 nano", "a stops", "crash a {}"]
    assert notes == [line.format(turn) for turn in (0, 1) for line in each]


def test_fresh_servers_are_started_backwards_in_every_other_round() -> None:
    notes: list[str] = []
    run(["crash"], [Noting("a", "node", notes), Noting("b", "node", notes)], notes)
    assert [note for note in notes if "crash" in note] == [
        "crash a 0",
        "crash b 0",
        "crash b 1",
        "crash a 1",
    ]


def test_each_setting_is_started_once_and_has_its_model() -> None:
    notes: list[str] = []
    run(["streams-1", "prefix-1500", "streams-8"], [Noting("a", "node", notes)], notes, rounds=1)
    starts = [note for note in notes if "starts" in note]
    assert starts == ["a starts on 1 nano", "a starts on 1 tiny"]


def test_nodes_that_only_drafts_need_do_not_stand_beside_other_measurements() -> None:
    notes: list[str] = []
    kinds: list[Kind] = ["node", "drafts", "no drafts"]
    run(["agent", "speculation-edit"], [Noting(kind, kind, notes) for kind in kinds], notes, 1)
    assert notes == [
        "node starts on 1 tiny",
        "agent node 0",
        "node stops",
        "drafts starts on 1 tiny",
        "no drafts starts on 1 tiny",
        "speculation-edit drafts 0",
        "speculation-edit no drafts 0",
        "no drafts stops",
        "drafts stops",
    ]


def test_everybody_has_the_same_prompts_in_a_round_and_no_round_those_of_another() -> None:
    notes: list[str] = []
    a, b = Noting("a", "node", notes), Noting("b", "peer", notes)
    run(["streams-1", "streams-8"], [a, b], notes)
    assert a.seeds == b.seeds
    assert len(set(a.seeds)) == 4


def test_a_measurement_that_fails_is_told_and_the_others_go_on() -> None:
    notes: list[str] = []
    targets = [Noting("a", "node", notes, broken=True), Noting("b", "peer", notes)]
    samples = run(["streams-8"], targets, notes, rounds=1)
    assert [sample.complaints for sample in samples] == [["cannot do nano"], []]
    assert [sample.figures for sample in samples] == [{}, {"throughput": 1.0}]


def test_a_scenario_with_several_lives_restarts_its_server_on_the_same_folder() -> None:
    notes: list[str] = []
    target = Noting("a", "disk", notes)
    (sample,) = run(["restart-prefix"], [target], notes, rounds=1)
    assert notes == [
        "a starts on 1 tiny",
        "a lives for the 1. time",
        "a stops",
        "a starts on 1 tiny",
        "a lives for the 2. time",
        "a stops",
        "restart-prefix a 0",
    ]
    assert sample.figures == {
        "cold_4000": 50.0,
        "restarted_4000": 5.0,
        "gain_restarted_4000": 10.0,
    }
    (folder,) = set(target.kept)
    assert folder is not None
    assert not folder.exists()
