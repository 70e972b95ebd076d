"""The cost of a system prompt that was seen before, against a new one.

[bench]
"""

from __future__ import annotations

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import Scenario, Stage, SyntheticModel, complaints


class Prefix(Scenario, frozen=True, kw_only=True):
    """Two users' first questions behind one system prompt of `words` words."""

    words: int
    tokens: int = 8
    synthetic: SyntheticModel = "tiny"

    async def run(self, stage: Stage) -> Sample:
        """Return both times to a first token; only the first request has to read the prompt."""
        system = stage.prompts.system(self.words)
        cold, warm = [
            await stage.client.ask(LoadRequest([system, stage.prompts.user(12)], self.tokens))
            for _ in range(2)
        ]
        figures = {
            "prompt_tokens": float(warm.prompt_tokens),
            "cold": 1000 * cold.ttft,
            "warm": 1000 * warm.ttft,
            "gain": cold.ttft / warm.ttft,
        }
        if warm.cached_tokens is not None and warm.prompt_tokens:
            figures["cached_share"] = 100 * warm.cached_tokens / warm.prompt_tokens
        return Sample(figures, complaints=complaints((cold, warm)))
