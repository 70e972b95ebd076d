"""The time to the first token when many prompts are cached.

[bench]
"""

from __future__ import annotations

from typing import ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.processes import resident_megabytes
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Kind,
    Scenario,
    Stage,
    complaints,
    in_parts,
    milliseconds,
)
from mlx_worker.bench.scenarios.streams import side_by_side


class CachedPrompts(Scenario, frozen=True, kw_only=True):
    """`prompts` in all, of which the first `before` are in the cache; with 0 the cache is emptied.

    The last of the new prompts are sent one by one, and each once more.
    """

    before: int
    prompts: int
    words: int = 200
    side_by_side: int = 16
    one_by_one: int = 40
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node"})

    async def run(self, stage: Stage) -> Sample:
        """Return first-token times of prompts that are new, and of the same prompts once cached."""
        if not self.before:
            await stage.client.delete("/cache")
        asks = [
            LoadRequest([stage.prompts.user(self.words)], 1)
            for _ in range(self.before, self.prompts)
        ]
        some, rest = asks[: self.one_by_one], asks[self.one_by_one :]
        lanes = [rest[lane :: self.side_by_side] for lane in range(self.side_by_side)]
        filled = await side_by_side(stage.client, lanes)
        new = [await stage.client.ask(item) for item in some]
        again = [await stage.client.ask(item) for item in some]
        return Sample(
            {
                "cold": milliseconds([item.ttft for item in new], 0.5),
                "warm": milliseconds([item.ttft for item in again], 0.5),
            }
            | in_parts("resident", resident_megabytes(stage.roles)),
            complaints=complaints([*filled, *new, *again]),
        )
