"""The child is killed in mid-stream: how long do its streams pause, and are they lost? [bench]"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import msgspec

from mlx_worker.bench.client import Ask
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import Kind, Scenario, Stage, complaints, milliseconds

if TYPE_CHECKING:
    from mlx_worker.bench.answer import Answer


class Crash(Scenario, frozen=True, kw_only=True):
    """So many streams, killed once each has shown `after` events."""

    streams: int = 8
    tokens: int = 800
    after: int = 16
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node"})
    fresh: ClassVar[bool] = True

    async def run(self, stage: Stage) -> Sample:
        """From the kill to each stream's next token. A stream that ends with an error is lost."""
        _, health = await stage.client.get("/health")
        child = msgspec.json.decode(health)["models"][stage.models[0]]["pid"]
        asks = [Ask([stage.prompts.user(24)], self.tokens) for _ in range(self.streams)]
        streams = await asyncio.gather(*map(stage.client.start, asks))
        await asyncio.gather(*(stream.more_events(self.after) for stream in streams))
        os.kill(child, signal.SIGKILL)
        killed = perf_counter()
        answers = [await stream.answer() for stream in streams]
        pauses = [_resumed(answer, killed) for answer in answers if answer.complete]
        figures = {
            "resumed_p50": milliseconds(pauses, 0.5),
            "resumed_max": milliseconds(pauses, 1.0),
            "lost": float(sum(not answer.complete for answer in answers)),
        }
        said = [f"stream lost: {complaint}" for complaint in complaints(answers)]
        return Sample(figures, complaints=said)


def _resumed(answer: Answer, killed: float) -> float:
    """Seconds from the kill over the longest pause that came after it."""
    pairs = zip(answer.texts, answer.texts[1:], strict=False)
    ends = [(b - a, b - killed) for a, b in pairs if b > killed]
    return max(ends)[1] if ends else math.nan
