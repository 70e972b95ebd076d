"""Two models at once, against the same load on one of them.

[bench]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import Kind, Scenario, Stage, complaints
from mlx_worker.bench.scenarios.streams import side_by_side, speed, throughput

if TYPE_CHECKING:
    from mlx_worker.bench.prompts import Prompts


class TwoModels(Scenario, frozen=True, kw_only=True):
    """Streams on each of two models."""

    streams: int = 16
    requests: int = 4
    tokens: int = 64
    models: ClassVar[int] = 2
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node"})

    async def run(self, stage: Stage) -> Sample:
        """Measure both models; then the whole load on the first."""
        first, second = stage.models[:2]
        halves = await asyncio.gather(
            side_by_side(stage.client, self._asks(stage.prompts, self.streams), first),
            side_by_side(stage.client, self._asks(stage.prompts, self.streams), second),
        )
        both = [*halves[0], *halves[1]]
        alone = self._asks(stage.prompts, 2 * self.streams)
        one = await side_by_side(stage.client, alone, first)
        figures = speed(both) | {"throughput_one": throughput(one)}
        return Sample(figures, complaints=complaints([*both, *one]))

    def _asks(self, prompts: Prompts, streams: int) -> list[list[LoadRequest]]:
        return [
            [LoadRequest([prompts.user(24)], self.tokens) for _ in range(self.requests)]
            for _ in range(streams)
        ]
