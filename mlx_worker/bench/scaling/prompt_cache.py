"""The prompt cache by itself at a given size.

`python -m mlx_worker.bench.scaling.prompt_cache` reads a StructureJob on stdin and writes a Sample
on stdout. Its KV is mlx_lm's, of one small layer: finding, storing and evicting is measured, not
the copying of KV. [bench]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, Final

import mlx.core as mx
import msgspec
from mlx_lm.models.cache import KVCache

from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scaling.job import StructureJob
from mlx_worker.bench.statistics import median
from mlx_worker.engine.kv.prompt_cache import PromptCache, RetentionClass

PROBES: Final = 200
"""Prompts looked for, kept and forgotten for one figure, which is their median."""

VOCABULARY: Final = 1000
SYSTEM_PROMPT: Final = 1000
TURN: Final = 100
CONVERSATION: Final = 4000
"""Tokens of a shared system prompt, of what a user says, of a long conversation."""

Make = Callable[[], list[int]]


def _strangers(draw: random.Random, _size: int) -> Make:
    """Return prompts that have nothing in common."""
    return lambda: _said(draw, SYSTEM_PROMPT + TURN)


def _one_head(draw: random.Random, _size: int) -> Make:
    """Return prompts behind one system prompt."""
    head = _said(draw, SYSTEM_PROMPT)
    return lambda: head + _said(draw, TURN)


def _branches(draw: random.Random, size: int) -> Make:
    """Return prompts of one conversation whose branches are dropped from its history.

    Reasoning is such a branch: part of what was read, and of no later prompt.
    """
    conversation = _said(draw, CONVERSATION)
    step = CONVERSATION // size
    turns = iter(range(sys.maxsize))

    def left() -> list[int]:
        place = CONVERSATION - next(turns) % size * step
        return [*conversation[: place - 1], 0, *_said(draw, 4)]

    return left


SHAPES = {"strangers": _strangers, "one system prompt": _one_head, "branches": _branches}


def _said(draw: random.Random, count: int) -> list[int]:
    return draw.choices(range(1, VOCABULARY), k=count)


def _kv() -> list[Any]:
    layer = KVCache()
    values = mx.zeros((1, 1, 1, 1))
    layer.update_and_fetch(values, values)
    return [layer]


def measure(job: StructureJob) -> Sample:
    """Return the microseconds of a look-up, of storing a prompt, and of evicting one for it."""
    draw = random.Random(job.seed)  # noqa: S311  (no secret)
    prompt = SHAPES[job.shape](draw, job.size)
    cache = PromptCache()
    for _ in range(job.size):
        cache.store(prompt(), _kv(), RetentionClass.ANONYMOUS)
    looked_up, kept, forgotten = [], [], []
    for _ in range(PROBES):
        tokens, kv = prompt(), _kv()
        looked_up.append(_microseconds(partial(cache.resident, tokens)))
        kept.append(_microseconds(partial(cache.store, tokens, kv, RetentionClass.ANONYMOUS)))
        forgotten.append(_microseconds(partial(cache.trim, 1)))
    return Sample(
        {"lookup": median(looked_up), "keep": median(kept), "forget": median(forgotten)},
        complaints=[] if cache.facts.entries == job.size else [f"{cache.facts.entries} entries"],
    )


def _microseconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return 1e6 * (perf_counter() - start)


def main() -> None:
    """Run one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=StructureJob)
    sys.stdout.buffer.write(msgspec.json.encode(measure(job)))


if __name__ == "__main__":
    main()
