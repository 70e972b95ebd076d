"""The pauses of streams while KV is written to disk, and while KV is read from disk.

[bench]
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Kind,
    Scenario,
    Stage,
    SyntheticModel,
    complaints,
    hang_up,
    long_streams,
    milliseconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.bench.answer import MeasuredAnswer

_QUANTILES = {"p50": 0.5, "p99": 0.99}


class DiskBeside(Scenario, frozen=True, kw_only=True):
    """Streams, beside which prompts arrive one after the other, in batches that take turns.

    In the first life, batches of new system prompts take turns with batches of new questions that
    are as long: a node with a disk writes the KV of the former at once, and that of the latter
    when they are used twice. In the second life each batch of system prompts comes twice: such a
    node reads their KV from disk, and then finds the KV in memory. A node without a disk shows
    what of a difference is not the disk's.
    """

    streams: int = 8
    entries: int = 100
    batch: int = 10
    words: int = 600
    stretch: int = 200
    synthetic: SyntheticModel = "tiny"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"disk", "node"})
    fresh: ClassVar[bool] = True
    lives: ClassVar[int] = 2

    async def run(self, stage: Stage) -> Sample:
        """Return the pauses of the streams alone, and beside each sort of prompts."""
        systems = [stage.prompts.system(self.words) for _ in range(self.entries)]
        warm_up = [LoadRequest([stage.prompts.user(self.words)], 64) for _ in range(self.streams)]
        await asyncio.gather(*map(stage.client.ask, warm_up))
        streams = await long_streams(stage, self.streams)
        times: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        asked: defaultdict[str, list[MeasuredAnswer]] = defaultdict(list)
        begun = perf_counter()
        await asyncio.gather(*(stream.more_events(self.stretch) for stream in streams))
        times["alone"].append((begun, perf_counter()))
        for name, batch in self._batches(stage, systems):
            begun = perf_counter()
            asked[name] += [await stage.client.ask(LoadRequest(item, 1)) for item in batch]
            times[name].append((begun, perf_counter()))
        hang_up(streams)
        answers = [await stream.answer() for stream in streams]
        figures = {
            f"{name}_ttft": milliseconds([answer.ttft for answer in answered], 0.5)
            for name, answered in asked.items()
        }
        for name, stretches in times.items():
            gaps = [
                gap
                for answer in answers
                for stretch in stretches
                for gap in answer.gaps_within(*stretch)
            ]
            for label, share in _QUANTILES.items():
                figures[f"{name}_{label}"] = milliseconds(gaps, share)
        said = complaints(answer for answered in asked.values() for answer in answered)
        if any(answer.complete for answer in answers):
            said.append("a stream ended before the last prompt was answered")
        return Sample(figures, complaints=said)

    def _batches(
        self, stage: Stage, systems: list[dict[str, Any]]
    ) -> Iterator[tuple[str, list[list[dict[str, Any]]]]]:
        """Yield the name and the prompts of each batch, in the order of sending."""
        for start in range(0, len(systems), self.batch):
            batch = systems[start : start + self.batch]
            behind = [[system, stage.prompts.user(8)] for system in batch]
            if stage.life == 0:
                yield "written", behind
                yield "unwritten", [[stage.prompts.user(self.words + 8)] for _ in batch]
            else:
                yield "read", behind
                yield "found", [[system, stage.prompts.user(8)] for system in batch]
