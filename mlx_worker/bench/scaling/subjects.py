"""The subjects of curves: servers under a scenario, and data structures by themselves.

[bench]
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mlx_worker.bench.scaling.curve import MeasuredAt, Subject
from mlx_worker.bench.scaling.job import StructureJob
from mlx_worker.bench.servers.module import run_module
from mlx_worker.bench.servers.server import WARM_UP, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mlx_worker.bench.sample import Sample
    from mlx_worker.bench.scenarios.catalog import AnyScenario
    from mlx_worker.bench.servers.target import Target


def under_load(
    target: Target, scenario: Callable[[int], AnyScenario], models: Callable[[int], Sequence[Path]]
) -> Subject:
    """Return a target under the scenario of a size; a server is warmed up first."""

    @contextlib.contextmanager
    def open_target(largest: int) -> Iterator[MeasuredAt]:
        with target.opened(models(largest)) as opened:
            if isinstance(opened, Server):
                opened.measure(WARM_UP, "warm-up")
            yield lambda size, seed: opened.measure(scenario(size), seed)

    return Subject(target.name, open_target)


def alone(module: str, shape: str) -> Subject:
    """Return a data structure of this shape, built and measured in a process of its own."""

    def measure(size: int, seed: str) -> Sample:
        return run_module(module, StructureJob(size, shape, seed))

    return Subject(shape, lambda _largest: contextlib.nullcontext(measure))
