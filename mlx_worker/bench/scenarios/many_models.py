"""The same load on any number of models, and what further models cost.

[bench]
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.processes import cpu_seconds, cpu_since, resident_megabytes
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.health import ask_health
from mlx_worker.bench.scenarios.scenario import Kind, Scenario, Stage, complaints, in_parts
from mlx_worker.bench.scenarios.streams import cost, side_by_side, speed


class ManyModels(Scenario, frozen=True, kw_only=True):
    """Streams that are spread over the models."""

    streams: int = 16
    requests: int = 8
    tokens: int = 64
    questions: int = 100
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node"})
    fresh: ClassVar[bool] = True

    async def run(self, stage: Stage) -> Sample:
        """Measure cost and memory of the load, then time and size of `/health`."""
        shares = [
            [
                [LoadRequest([stage.prompts.user(24)], self.tokens) for _ in range(self.requests)]
                for _ in range(place, self.streams, len(stage.models))
            ]
            for place in range(len(stage.models))
        ]
        before = cpu_seconds(stage.roles)
        answers = list(
            chain.from_iterable(
                await asyncio.gather(
                    *(
                        side_by_side(stage.client, asks, model)
                        for asks, model in zip(shares, stage.models, strict=True)
                    )
                )
            )
        )
        return Sample(
            speed(answers)
            | cost(answers, cpu_since(before, stage.roles))
            | in_parts("resident", resident_megabytes(stage.roles))
            | await ask_health(stage, self.questions),
            complaints=complaints(answers),
        )
