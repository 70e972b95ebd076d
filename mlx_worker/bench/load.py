"""Where the load runs: `python -m mlx_worker.bench.load`, a LoadJob on stdin, a Sample on stdout.

A process of its own, so that its work is not the server's, nor the server's clients each other's.
[bench]
"""

from __future__ import annotations

import math
import sys
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import uvloop

from mlx_worker.bench.client import LoadClient
from mlx_worker.bench.job import LoadJob
from mlx_worker.bench.processes import until_idle
from mlx_worker.bench.prompts import Prompts
from mlx_worker.bench.scenarios.scenario import Stage

if TYPE_CHECKING:
    from mlx_worker.bench.sample import Sample

REST = 30.0
"""Seconds that a server may work on for clients that have left, before the next measurement."""


async def run(job: LoadJob) -> Sample:
    """Play the scenario, then wait until the server has come to rest."""
    client = LoadClient(job.host, job.port, job.models[0])
    stage = Stage(client, Prompts(job.seed), job.roles, job.models, job.life)
    sample = await job.scenario.run(stage)
    await until_idle(job.roles, perf_counter() + REST)
    figures = sample.figures.items()
    sample.figures = {name: value for name, value in figures if not math.isnan(value)}
    return sample


def main() -> None:
    """Run one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadJob)
    sample = uvloop.run(run(job))
    sys.stdout.buffer.write(msgspec.json.encode(sample))


if __name__ == "__main__":
    main()
