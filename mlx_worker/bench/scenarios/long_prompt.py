"""A long prompt that arrives among running streams, and the pauses of the streams.

[bench]
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Scenario,
    Stage,
    SyntheticModel,
    complaints,
    hang_up,
    long_streams,
    milliseconds,
)

_QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


class LongPrompt(Scenario, frozen=True, kw_only=True):
    """Streams and a prompt of `words` words; the stretches before and after are in events."""

    streams: int = 8
    words: int = 6000
    stretch: int = 150
    synthetic: SyntheticModel = "tiny"

    async def run(self, stage: Stage) -> Sample:
        """Return the pauses of the streams before, during and after the prefill of the prompt."""
        streams = await long_streams(stage, self.streams)
        begun = perf_counter()
        await asyncio.gather(*(stream.more_events(self.stretch) for stream in streams))
        arrived = perf_counter()
        prompt = await stage.client.ask(LoadRequest([stage.prompts.user(self.words)], 1))
        read = perf_counter()
        await asyncio.gather(*(stream.more_events(self.stretch) for stream in streams))
        over = perf_counter()
        hang_up(streams)
        answers = [await stream.answer() for stream in streams]
        stretches = {"before": (begun, arrived), "during": (arrived, read), "after": (read, over)}
        figures = {
            f"{name}_{label}": milliseconds(
                [gap for answer in answers for gap in answer.gaps_within(*times)], share
            )
            for name, times in stretches.items()
            for label, share in _QUANTILES.items()
        }
        figures["prompt_tokens"] = float(prompt.prompt_tokens)
        figures["prompt_ttft"] = 1000 * prompt.ttft
        return Sample(figures, complaints=complaints([prompt]))
