"""Sessions of one short turn each, and what a request costs after many of them.

[bench]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.processes import cpu_seconds, cpu_since, resident_megabytes
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.health import ask_health
from mlx_worker.bench.scenarios.scenario import Kind, Scenario, Stage, complaints, in_parts
from mlx_worker.bench.scenarios.streams import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.bench.answer import MeasuredAnswer

CROWD = 32
"""How many of those that are not measured come at once."""


class Sessions(Scenario, frozen=True, kw_only=True):
    """`sessions` in all, of which the first `before` have been there already."""

    before: int
    sessions: int
    requests: int = 400
    side_by_side: int = 8
    tokens: int = 4
    questions: int = 100
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node"})

    async def run(self, stage: Stage) -> Sample:
        """Start the new sessions; then measure requests of any of the sessions."""
        new = await _ask(stage, self.tokens, range(self.before, self.sessions), CROWD)
        chosen = stage.prompts.random.choices(range(self.sessions), k=self.requests)
        before = cpu_seconds(stage.roles)
        answers = await _ask(stage, self.tokens, chosen, self.side_by_side)
        used = cpu_since(before, stage.roles)
        each = {role: 1e6 * seconds / self.requests for role, seconds in used.items()}
        return Sample(
            in_parts("cpu_request", each)
            | in_parts("resident", resident_megabytes(stage.roles))
            | await ask_health(stage, self.questions),
            complaints=complaints([*new, *answers]),
        )


async def _ask(
    stage: Stage, tokens: int, sessions: Iterable[int], lanes: int
) -> list[MeasuredAnswer]:
    asks = [
        LoadRequest([stage.prompts.user(12)], tokens, session=f"session-{session}")
        for session in sessions
    ]
    return await side_by_side(stage.client, [asks[lane::lanes] for lane in range(lanes)])
