"""The latency of `/health` while streams run, as a router sees it.

[bench]
"""

from __future__ import annotations

from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Scenario,
    Stage,
    hang_up,
    long_streams,
    milliseconds,
)


class Health(Scenario, frozen=True, kw_only=True):
    """Streams, and questions for health one after the other."""

    streams: int = 32
    questions: int = 200

    async def run(self, stage: Stage) -> Sample:
        """Measure the time of each answer."""
        streams = await long_streams(stage, self.streams)
        figures = await ask_health(stage, self.questions)
        hang_up(streams)
        return Sample(figures)


async def ask_health(stage: Stage, questions: int) -> dict[str, float]:
    """Return the time of each answer, and the number of bytes of the last one."""
    answers = [await stage.client.get("/health") for _ in range(questions)]
    times = [seconds for seconds, _ in answers]
    return {
        "health_p50": milliseconds(times, 0.5),
        "health_p99": milliseconds(times, 0.99),
        "health_bytes": float(len(answers[-1][1])),
    }
