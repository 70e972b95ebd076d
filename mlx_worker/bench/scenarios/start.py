"""The start of a server: when it listens, when it serves, and how long its first request waits.

[bench]
"""

from __future__ import annotations

from typing import ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.processes import resident_megabytes
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import Kind, Scenario, Stage, complaints, in_parts


class Start(Scenario, frozen=True, kw_only=True):
    """The first request of a server's life; the times of the start itself are its starter's."""

    tokens: int = 8
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node", "peer"})
    fresh: ClassVar[bool] = True

    async def run(self, stage: Stage) -> Sample:
        """Send one request."""
        answer = await stage.client.ask(LoadRequest([stage.prompts.user(24)], self.tokens))
        figures = {"ttft_p50": 1000 * answer.ttft}
        figures |= in_parts("resident", resident_megabytes(stage.roles))
        return Sample(figures, complaints=complaints([answer]))
