"""The child is killed during streams; measured are their pauses and losses.

[bench]
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import Kind, Scenario, Stage, complaints, milliseconds
from mlx_worker.bench.statistics import median
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from mlx_worker.bench.answer import MeasuredAnswer

LOOK_EVERY = 0.05
COME_BACK = 60.0
"""Seconds in which a node must be whole again."""


@dataclass(frozen=True)
class Kill:
    """One kill: its answers, and the parts of the first stream's pause by name, in ms."""

    answers: list[MeasuredAnswer]
    pauses: list[float]
    parts: dict[str, float]


class Crash(Scenario, frozen=True, kw_only=True):
    """Streams whose child is killed once each has shown `after` events, several times."""

    streams: int = 8
    tokens: int = 800
    after: int = 16
    kills: int = 20
    kinds: ClassVar[frozenset[Kind]] = frozenset({"node", "standby"})
    fresh: ClassVar[bool] = True

    async def run(self, stage: Stage) -> Sample:
        """Measure from the kill to each stream's next token; a stream with an error is lost."""
        kills = [await self._kill(stage) for _ in range(self.kills)]
        answers = [answer for kill in kills for answer in kill.answers]
        pauses = [pause for kill in kills for pause in kill.pauses]
        parts = [kill.parts for kill in kills if kill.parts]
        figures = {
            "resumed_p50": milliseconds(pauses, 0.5),
            "resumed_max": milliseconds(pauses, 1.0),
            "lost": float(sum(not answer.complete for answer in answers)),
        }
        if parts:
            figures |= {name: median([part[name] for part in parts]) for name in parts[0]}
        said = [f"stream lost: {complaint}" for complaint in complaints(answers)]
        return Sample(figures, complaints=said)

    async def _kill(self, stage: Stage) -> Kill:
        before = await _ready_model(stage)
        asks = [LoadRequest([stage.prompts.user(24)], self.tokens) for _ in range(self.streams)]
        streams = await asyncio.gather(*map(stage.client.start, asks))
        await asyncio.gather(*(stream.more_events(self.after) for stream in streams))
        os.kill(before["pid"], signal.SIGKILL)
        killed, killed_at = perf_counter(), time.time() * 1000
        answers = [await stream.answer() for stream in streams]
        entered_at = (await _ready_model(stage))["enteredAt"]
        # What arrives after that is the new process's; what did before was on its way.
        loaded = killed + (entered_at["ready"] - killed_at) / 1000
        pauses = [_next(answer, loaded) - killed for answer in answers if answer.complete]
        first = milliseconds(pauses, 0.0)
        return Kill(
            answers, pauses, {} if math.isnan(first) else _parts(entered_at, killed_at, first)
        )


async def _ready_model(stage: Stage) -> dict[str, Any]:
    """Return the model's part of /health, once ready and all spares wait.

    Raises BenchmarkError.
    """
    deadline = perf_counter() + COME_BACK
    while perf_counter() < deadline:
        _, health = await stage.client.get("/health")
        facts = msgspec.json.decode(health)
        model: dict[str, Any] = facts["models"][stage.models[0]]
        spares = facts["standby"]
        if model["state"] == "ready" and len(spares["waiting"]) == spares["wanted"]:
            return model
        await asyncio.sleep(LOOK_EVERY)
    raise BenchmarkError(f"the node was not whole within {COME_BACK} s")


def _parts(entered_at: dict[str, float], killed_at: float, first: float) -> dict[str, float]:
    """Return the parts of the first stream's pause in ms; the front uses the same clock."""
    lost = min(at for state in ("killing", "backoff") if (at := entered_at[state]) >= killed_at)
    hello, loaded = entered_at["loading"], entered_at["ready"]
    return {
        "detect": lost - killed_at,
        "spawn": hello - lost,
        "load": loaded - hello,
        "child_ready": loaded - lost,
        "prefill": first - (loaded - killed_at),
    }


def _next(answer: MeasuredAnswer, loaded: float) -> float:
    """Return the time of the first text after the model was back; NaN if all text came before."""
    return next((at for at in answer.texts if at > loaded), math.nan)
