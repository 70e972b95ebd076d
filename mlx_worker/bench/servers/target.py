"""The protocol of everything that can be measured.

[bench]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mlx_worker.bench.sample import Sample
    from mlx_worker.bench.scenarios.catalog import AnyScenario
    from mlx_worker.bench.scenarios.scenario import Kind

ROWS = 256
"""Sequences decoded side by side, for every target: more than any scenario has streams."""

READERS = 8
"""Prompts read side by side, where that can be said."""

CACHE_BYTES = 4 << 30
"""Room for the KV of prompts, where that can be said."""


class Opened(Protocol):
    """Something that runs and can be measured."""

    def measure(self, scenario: AnyScenario, seed: str, life: int = 0) -> Sample:
        """Measure one life of a scenario once. Raises BenchmarkError."""


class Target(Protocol):
    """Something that can be started."""

    name: str
    kind: Kind

    def opened(
        self, models: Sequence[Path], kept: Path | None = None
    ) -> AbstractContextManager[Opened]:
        """Start the target on these models, and stop it at the end. Raises BenchmarkError.

        `kept` is a folder that outlasts the target, for what its next life finds.
        """
