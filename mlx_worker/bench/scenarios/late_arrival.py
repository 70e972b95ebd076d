"""Short requests that arrive while long streams run, and their time to a first token.

[bench]
"""

from __future__ import annotations

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Scenario,
    Stage,
    complaints,
    hang_up,
    long_streams,
    milliseconds,
)


class LateArrivals(Scenario, frozen=True, kw_only=True):
    """Long streams, and short requests one after the other."""

    streams: int = 24
    arrivals: int = 8
    tokens: int = 8

    async def run(self, stage: Stage) -> Sample:
        """Measure the time of each late request to its first token."""
        streams = await long_streams(stage, self.streams)
        answers = [
            await stage.client.ask(LoadRequest([stage.prompts.user(24)], self.tokens))
            for _ in range(self.arrivals)
        ]
        hang_up(streams)
        firsts = [answer.ttft for answer in answers]
        figures = {
            "newcomer_p50": milliseconds(firsts, 0.5),
            "newcomer_p99": milliseconds(firsts, 0.99),
        }
        return Sample(figures, complaints=complaints(answers))
