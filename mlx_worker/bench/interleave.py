"""The order of measurements: A B B A, because a machine drifts by more than servers differ.

What one scenario compares is measured in turn, round by round, while every server of its setting
stands there and the others rest. Every other round goes backwards: a server that is measured
right behind another one may pay for what that one still does. [bench]
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mlx_worker.bench.sample import Sample
from mlx_worker.bench.servers.server import WARM_UP, Server
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlx_worker.bench.scenarios.catalog import AnyScenario
    from mlx_worker.bench.servers.target import Opened, Target

T = TypeVar("T")


class Measurement(msgspec.Struct, frozen=True):
    """One sample, with its scenario, target and round; rounds count from 0."""

    scenario: str
    target: str
    round: int
    sample: Sample


@dataclass(frozen=True)
class Plan:
    """What is measured; `model` returns the folder for the name of a synthetic model."""

    scenarios: Mapping[str, AnyScenario]
    targets: Sequence[Target]
    rounds: int
    seed: str
    model: Callable[[str], Path]


def measured(plan: Plan) -> Iterator[Measurement]:
    """Yield every sample as it comes. Raises BenchmarkError if a target cannot be started."""
    ordered = sorted(plan.scenarios.items(), key=_setting)
    for (fresh, synthetic, models, _), scenarios in groupby(ordered, key=_setting):
        folders = [plan.model(synthetic)] * models
        if fresh:
            yield from _fresh(plan, folders, dict(scenarios))
        else:
            yield from _standing(plan, folders, dict(scenarios))


def _setting(item: tuple[str, AnyScenario]) -> tuple[bool, str, int, bool]:
    """Return what a scenario needs to be running.

    Nodes that only measurements of drafts need do not stand beside others.
    """
    _, scenario = item
    return scenario.fresh, scenario.synthetic, scenario.models, "drafts" in scenario.kinds


def _in_order(targets: Sequence[T], turn: int) -> Sequence[T]:
    """Return the targets in the order of a round: forwards in the first one, then backwards."""
    return targets if turn % 2 == 0 else targets[::-1]


def _standing(
    plan: Plan, folders: Sequence[Path], scenarios: Mapping[str, AnyScenario]
) -> Iterator[Measurement]:
    wanted = set[str]().union(*(scenario.kinds for scenario in scenarios.values()))
    with contextlib.ExitStack() as stack:
        standing: dict[str, tuple[Target, Opened]] = {}
        for target in plan.targets:
            if target.kind in wanted:
                opened = stack.enter_context(target.opened(folders))
                if isinstance(opened, Server):
                    opened.measure(WARM_UP, f"{plan.seed}/warm-up")
                standing[target.name] = target, opened
        for name, scenario in scenarios.items():
            for turn in range(plan.rounds):
                for target, opened in _in_order(list(standing.values()), turn):
                    if target.kind in scenario.kinds:
                        yield _measurement(plan, name, target, turn, opened)


def _fresh(
    plan: Plan, folders: Sequence[Path], scenarios: Mapping[str, AnyScenario]
) -> Iterator[Measurement]:
    for name, scenario in scenarios.items():
        for turn in range(plan.rounds):
            for target in _in_order(plan.targets, turn):
                if target.kind in scenario.kinds:
                    yield _lives(plan, name, target, turn, folders)


def _lives(
    plan: Plan, name: str, target: Target, turn: int, folders: Sequence[Path]
) -> Measurement:
    """Measure all lives of a server that is started for this scenario."""
    scenario = plan.scenarios[name]
    samples = []
    with tempfile.TemporaryDirectory(prefix="mlx-worker-bench-") as kept:
        for life in range(scenario.lives):
            with target.opened(folders, Path(kept)) as opened:
                samples.append(_sample(plan, name, turn, opened, life))
    return Measurement(name, target.name, turn, scenario.joined(samples))


def _measurement(plan: Plan, name: str, target: Target, turn: int, opened: Opened) -> Measurement:
    return Measurement(name, target.name, turn, _sample(plan, name, turn, opened))


def _sample(plan: Plan, name: str, turn: int, opened: Opened, life: int = 0) -> Sample:
    """Measure once; a measurement that fails has no figures, and the others go on."""
    try:
        return opened.measure(plan.scenarios[name], f"{plan.seed}/{name}/{turn}", life)
    except BenchmarkError as error:
        return Sample({}, complaints=[error.message])
