"""The measurements of a run, as tables read them and as the JSON file has them.

[bench]
"""

from __future__ import annotations

import math
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import msgspec

from mlx_worker import __version__
from mlx_worker.bench.interleave import Measurement
from mlx_worker.bench.statistics import median

if TYPE_CHECKING:
    from pathlib import Path


class Machine(msgspec.Struct, frozen=True):
    """The machine of a measurement, and the versions of what was measured."""

    system: str
    processor: str
    cores: int
    python: str
    versions: dict[str, str]


class Results(msgspec.Struct, frozen=True):
    """One run. `model` is a folder or "made"; rounds that failed have samples without figures."""

    machine: Machine
    command: list[str]
    model: str
    seed: str
    measurements: list[Measurement]

    def scenarios(self) -> list[str]:
        """Return the scenarios in the order of measurement."""
        return list(dict.fromkeys(measurement.scenario for measurement in self.measurements))

    def targets(self, scenario: str) -> list[str]:
        """Return the names of the targets that were measured in the scenario."""
        mine = (
            measurement for measurement in self.measurements if measurement.scenario == scenario
        )
        return list(dict.fromkeys(item.target for item in mine))

    def figures(self, scenario: str) -> list[str]:
        """Return the names of all figures in the scenario."""
        mine = (
            measurement for measurement in self.measurements if measurement.scenario == scenario
        )
        return list(dict.fromkeys(name for item in mine for name in item.sample.figures))

    def rounds(self, scenario: str, target: str, figure: str) -> list[float]:
        """Return one value for each round; NaN if a round has none."""
        return [
            measurement.sample.figures.get(figure, math.nan)
            for measurement in self.measurements
            if measurement.scenario == scenario and measurement.target == target
        ]

    def gaps(self, scenario: str, target: str) -> list[float]:
        """Return the percentiles 0..100 of the pauses in ms, each the median of the rounds."""
        rounds = [
            measurement.sample.gaps
            for measurement in self.measurements
            if measurement.scenario == scenario
            and measurement.target == target
            and measurement.sample.gaps
        ]
        return [median(values) for values in zip(*rounds, strict=True)]

    def write(self, file: Path) -> None:
        """Write the results as JSON."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        file.write_bytes(text + b"\n")


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine(
        system=platform.platform(),
        processor=platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        python=sys.version.split()[0],
        versions={"mlx-worker": __version__} | _versions("mlx", "mlx-lm", "vllm-mlx"),
    )


def _versions(*projects: str) -> dict[str, str]:
    found = {}
    for project in projects:
        try:
            found[project] = version(project)
        except PackageNotFoundError:
            continue
    return found
