"""The base of scenarios: sizes as frozen data, and how they run against a server.

[bench]
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import msgspec

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlx_worker.bench.answer import MeasuredAnswer
    from mlx_worker.bench.client import LoadClient, RunningRequest
    from mlx_worker.bench.processes import Roles
    from mlx_worker.bench.prompts import Prompts

Kind: TypeAlias = Literal[
    "limit", "node", "standby", "disk", "drafts", "no drafts", "running", "peer"
]
"""`standby`: a node with a spare child, `disk`: a node that keeps KV on disk too, `drafts`: a node
with `speculation = "on"`, `no drafts`: the same with "off", `running`: a node started by its user,
not to be harmed."""
SyntheticModel: TypeAlias = Literal["nano", "tiny", "slow", "repeating"]

LONG_ANSWER = 4000
"""Tokens: an answer that is still being written when it is no longer needed."""


@dataclass(frozen=True)
class Stage:
    """What a scenario plays on: a server, its processes, and the names of its models.

    `life` counts the restarts of the server that the scenario has asked for.
    """

    client: LoadClient
    prompts: Prompts
    roles: Roles
    models: tuple[str, ...]
    life: int = 0


class Scenario(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The base class of scenarios: sizes in the fields, requirements in the class.

    `synthetic` is the synthetic model that shows the effect best. `models` is the number of models
    at once, `kinds` are the targets that it can run on, and `fresh` is True if each round needs a
    server that has just been started. With several `lives`, which need `fresh`, the scenario runs
    once in each: the server is stopped and started between them, and keeps what is on its disk.
    """

    synthetic: SyntheticModel = "nano"
    models: ClassVar[int] = 1
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node", "running", "peer"})
    fresh: ClassVar[bool] = False
    lives: ClassVar[int] = 1

    async def run(self, stage: Stage) -> Sample:
        """Put the load on the server and return its figures."""
        raise NotImplementedError

    def joined(self, samples: Sequence[Sample]) -> Sample:
        """Return one sample of those of all lives; a figure of a later life counts."""
        figures: dict[str, float] = {}
        for sample in samples:
            figures |= sample.figures
        complained = [complaint for sample in samples for complaint in sample.complaints]
        return Sample(figures, samples[-1].gaps, complained)


async def long_streams(stage: Stage, count: int, words: int = 24) -> list[RunningRequest]:
    """Return streams that go on, each past its first tokens."""
    asks = [LoadRequest([stage.prompts.user(words)], LONG_ANSWER) for _ in range(count)]
    streams = await asyncio.gather(*map(stage.client.start, asks))
    await asyncio.gather(*(stream.more_events(4) for stream in streams))
    return streams


def hang_up(streams: Iterable[RunningRequest]) -> None:
    """Close the connections of all streams."""
    for stream in streams:
        stream.hang_up()


def complaints(answers: Iterable[MeasuredAnswer]) -> list[str]:
    """Return what was wrong with the answers that are not complete."""
    return [answer.complaint for answer in answers if answer.complaint]


def milliseconds(seconds: Iterable[float], share: float) -> float:
    """Return a quantile of times in milliseconds; NaN is left out."""
    return 1000 * quantile([second for second in seconds if not math.isnan(second)], share)


def in_parts(figure: str, by_role: dict[str, float]) -> dict[str, float]:
    """Return the sum under the figure's name, and each role's part if there are several."""
    parts = {f"{figure}_{role}": value for role, value in by_role.items()}
    whole = {figure: sum(parts.values())} if parts else {}
    return whole | parts if len(parts) > 1 else whole
