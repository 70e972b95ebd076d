"""The jobs of the measuring processes: a scenario, a server or a model, and a seed.

[bench]
"""

from __future__ import annotations

import msgspec

from mlx_worker.bench.scenarios.catalog import AnyScenario
from mlx_worker.bench.scenarios.streams import Streams


class LoadJob(msgspec.Struct, frozen=True):
    """For the load's process: the scenario, the server, its models' names, its processes.

    `life` is that of `Stage`.
    """

    scenario: AnyScenario
    seed: str
    host: str
    port: int
    models: tuple[str, ...]
    roles: dict[str, list[int]]
    life: int = 0


class BaselineJob(msgspec.Struct, frozen=True):
    """For the process that is the limit: the scenario and the model's folder."""

    scenario: Streams
    seed: str
    folder: str
    rows: int
