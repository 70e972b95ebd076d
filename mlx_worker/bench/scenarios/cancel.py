"""A client leaves a long generation, and the server should stop working on it.

[bench]
"""

from __future__ import annotations

from time import perf_counter

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.processes import TICK, until_idle, until_used
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import LONG_ANSWER, Scenario, Stage


class CancelledStreams(Scenario, frozen=True, kw_only=True):
    """Clients that leave after `work` CPU seconds of the server, watched for `limit` seconds."""

    work: float = 0.2
    limit: float = 20.0
    tokens: int = LONG_ANSWER

    async def run(self, stage: Stage) -> Sample:
        """Leave a stream, then a whole answer; a server that is never idle shows the limit."""
        if not stage.roles:
            return Sample({})
        sample = Sample({})
        for figure, stream in (("idle_streamed", True), ("idle_whole", False)):
            idle = await self._leave(stage, stream=stream)
            if idle is None:
                sample.complaints.append(f"{figure}: the server was idle when the client left")
            else:
                sample.figures[figure] = 1000 * idle
        return sample

    async def _leave(self, stage: Stage, *, stream: bool) -> float | None:
        """Return the seconds from leaving to idle, a tick at least; None without any work."""
        asked = await stage.client.start(
            LoadRequest([stage.prompts.user(24)], self.tokens, stream=stream)
        )
        if not await until_used(stage.roles, self.work, perf_counter() + self.limit):
            return None
        asked.hang_up()
        left = perf_counter()
        idle = await until_idle(stage.roles, left + self.limit)
        return max(idle - left, TICK)
