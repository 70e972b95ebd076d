"""Many streams side by side, each with a new request as soon as one is answered.

[bench]
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.processes import cpu_seconds, cpu_since, resident_megabytes
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Kind,
    Scenario,
    Stage,
    complaints,
    in_parts,
    milliseconds,
)

if TYPE_CHECKING:
    from mlx_worker.bench.answer import MeasuredAnswer
    from mlx_worker.bench.client import LoadClient
    from mlx_worker.bench.prompts import Prompts


class Streams(Scenario, frozen=True, kw_only=True):
    """Lengths are ranges, in words of a prompt and tokens of an answer."""

    streams: int
    requests: int
    words: tuple[int, int] = (24, 24)
    tokens: tuple[int, int] = (64, 64)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"limit", "node", "running", "peer"})

    def asks(self, prompts: Prompts) -> list[list[LoadRequest]]:
        """Return the requests of each stream, in order."""
        return [
            [
                LoadRequest(
                    [prompts.user(prompts.random.randint(*self.words))],
                    prompts.random.randint(*self.tokens),
                )
                for _ in range(self.requests)
            ]
            for _ in range(self.streams)
        ]

    async def run(self, stage: Stage) -> Sample:
        """Measure throughput, first tokens and pauses, and their cost."""
        asks = self.asks(stage.prompts)
        before = cpu_seconds(stage.roles)
        answers = await side_by_side(stage.client, asks)
        used = cpu_since(before, stage.roles)
        return Sample(
            speed(answers)
            | cost(answers, used)
            | in_parts("resident", resident_megabytes(stage.roles)),
            gaps=_percentiles(_gaps(answers)),
            complaints=complaints(answers),
        )


async def side_by_side(
    client: LoadClient, asks: list[list[LoadRequest]], model: str | None = None
) -> list[MeasuredAnswer]:
    """Run one task for each stream."""

    async def stream(mine: list[LoadRequest]) -> list[MeasuredAnswer]:
        return [await client.ask(ask, model) for ask in mine]

    return list(chain.from_iterable(await asyncio.gather(*map(stream, asks))))


def throughput(answers: list[MeasuredAnswer]) -> float:
    """Return the tokens a second, from the first request to the last text."""
    tokens = sum(answer.completion_tokens for answer in answers)
    start = min(answer.sent for answer in answers)
    end = max(answer.texts[-1] if answer.texts else answer.ended for answer in answers)
    return tokens / (end - start)


def speed(answers: list[MeasuredAnswer]) -> dict[str, float]:
    """Return the figures of speed that readers of the streams notice."""
    firsts = [answer.ttft for answer in answers]
    gaps = _gaps(answers)
    return {
        "tokens": float(sum(answer.completion_tokens for answer in answers)),
        "throughput": throughput(answers),
        "ttft_p50": milliseconds(firsts, 0.5),
        "ttft_p99": milliseconds(firsts, 0.99),
        "gap_p50": milliseconds(gaps, 0.5),
        "gap_p99": milliseconds(gaps, 0.99),
    }


def _percentiles(gaps: list[float]) -> list[float]:
    """Return percentiles 0..100 in milliseconds; [] if every answer came at once."""
    return [milliseconds(gaps, percent / 100) for percent in range(101)] if gaps else []


def _gaps(answers: list[MeasuredAnswer]) -> list[float]:
    return [gap for answer in answers for gap in answer.gaps]


def cost(answers: list[MeasuredAnswer], used: dict[str, float]) -> dict[str, float]:
    """Return the CPU time of a token in microseconds, from seconds by role."""
    tokens = sum(answer.completion_tokens for answer in answers)
    if not tokens:
        return {}
    return in_parts("cpu", {role: 1e6 * seconds / tokens for role, seconds in used.items()})
