"""The queue of one model by itself: `python -m mlx_worker.bench.scaling.fair_queue`.

A StructureJob on stdin, a Sample on stdout. [bench]
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Final

import msgspec
import uvloop

from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scaling.job import StructureJob
from mlx_worker.bench.statistics import median
from mlx_worker.supervisor.requests.admission import Admission

PROBES: Final = 200
"""Requests that come and go for one figure, which is their median."""

SHAPES = {"a session each": 1, "ten of each session": 10}
"""Number of queued requests that belong to one session."""


async def measure(job: StructureJob) -> Sample:
    """Return the microseconds of a request at a full queue, and of one when a slot becomes free.

    At a full queue either the request or another one is refused.
    """
    each = SHAPES[job.shape]
    admission = Admission("a model", 1, job.size)
    await admission.take_slot()
    line = [_enters(admission, f"{i // each}") for i in range(job.size)]
    await _settle()
    turns, arrivals = [], []
    for i in range(PROBES):
        start = perf_counter()
        line.append(_enters(admission, f"late {i}"))
        await _settle()
        arrivals.append(1e6 * (perf_counter() - start))
        start = perf_counter()
        admission.release_slot(took=1.0)
        line.append(_enters(admission, f"next {i // each}"))
        await _settle()
        turns.append(1e6 * (perf_counter() - start))
    waiting = admission.queued
    for task in line:
        task.cancel()
    await asyncio.gather(*line, return_exceptions=True)
    return Sample(
        {"turn": median(turns), "arrival": median(arrivals)},
        complaints=[] if waiting == job.size else [f"{waiting} in line"],
    )


def _enters(admission: Admission, session: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(admission.take_slot(session))


async def _settle() -> None:
    """Let every request that can continue do so."""
    for _ in range(2):
        await asyncio.sleep(0)


def main() -> None:
    """Run one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=StructureJob)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(measure(job))))


if __name__ == "__main__":
    main()
