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
        times = [(await stage.client.get("/health"))[0] for _ in range(self.questions)]
        leave(streams)
        return Sample(
            {"health_p50": milliseconds(times, 0.5), "health_p99": milliseconds(times, 0.99)}
        )
