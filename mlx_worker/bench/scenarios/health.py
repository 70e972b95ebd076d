"""What a router waits for `/health` while streams run. [bench]"""

from __future__ import annotations

from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Scenario,
    Stage,
    leave,
    long_streams,
    milliseconds,
)


class Health(Scenario, frozen=True, kw_only=True):
    """So many streams, so many questions one after the other."""

    streams: int = 32
    questions: int = 200

    async def run(self, stage: Stage) -> Sample:
        """How long each answer took."""
        streams = await long_streams(stage, self.streams)
        figures = await ask_health(stage, self.questions)
        leave(streams)
        return Sample(figures)


async def ask_health(stage: Stage, questions: int) -> dict[str, float]:
    """How long each answer to so many questions took, and how many bytes the last one had."""
    answers = [await stage.client.get("/health") for _ in range(questions)]
    times = [seconds for seconds, _ in answers]
    return {
        "health_p50": milliseconds(times, 0.5),
        "health_p99": milliseconds(times, 0.99),
        "health_bytes": float(len(answers[-1][1])),
    }
