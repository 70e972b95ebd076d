"""The baseline: the engine alone, as fast as a server that costs nothing.

[bench]
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mlx_worker.bench.job import BaselineJob
from mlx_worker.bench.scenarios.streams import Streams
from mlx_worker.bench.servers.module import run_module
from mlx_worker.bench.servers.target import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlx_worker.bench.sample import Sample
    from mlx_worker.bench.scenarios.catalog import AnyScenario
    from mlx_worker.bench.scenarios.scenario import Kind


class Baseline:
    """A process a measurement."""

    name = "limit"
    kind: Kind = "limit"

    @contextlib.contextmanager
    def opened(
        self,
        models: Sequence[Path],
        kept: Path | None = None,  # noqa: ARG002  (the limit keeps nothing)
    ) -> Iterator[_OpenBaseline]:
        """Open the baseline; no process runs between measurements."""
        yield _OpenBaseline(models[0])


class _OpenBaseline:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def measure(self, scenario: AnyScenario, seed: str, life: int = 0) -> Sample:  # noqa: ARG002
        assert isinstance(scenario, Streams)
        job = BaselineJob(scenario, seed, str(self._folder), ROWS)
        return run_module("mlx_worker.bench.baseline", job)
