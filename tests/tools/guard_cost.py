"""What the guard adds to a decode step: the same batch with and without it, a step of each in turn.

For contributors: `python -m tests.tools.guard_cost [--steps 400] [--models nano FOLDER] [--rows 1]`
on a machine that does nothing else. Prints a Markdown table of medians: a step without the guard,
what the guard adds, and how long a frame waits until the next step has been given to the device.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_worker.engine.batch import Batch
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.sampling import RowSampler
from mlx_worker.wire.request import Sampling
from tests.synthetic_models import make

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

ROWS: Final = (1, 8, 32, 128)
PROMPT: Final = list(range(10, 26))
WARM_UP: Final = 20
"""Steps that do not count."""


class NoEvidence:
    """What stands in the guard's place in the batch that is measured without it."""

    least: tuple[()] = ()

    def check(self, present: Collection[int]) -> None:
        """Find nothing."""


NO_EVIDENCE: Final[Any] = NoEvidence()


class Measured:
    """A batch whose rows decode, and what its steps took, in seconds."""

    def __init__(self, model: Any, rows: int, sampling: Sampling, *, guarded: bool) -> None:
        self.steps: list[float] = []
        self.waits: list[float] = []
        self._encoded_at = 0.0
        self._batch = Batch(
            model,
            on_read=lambda _tokens, _seconds: None,
            on_encoded=self._note,
            completion_batch_size=rows,
            prefill_batch_size=rows,
        )
        draws = [RowSampler(sampling, 1 << 20) for _ in range(rows)]
        self._batch.insert([list(PROMPT)] * rows, [1 << 20] * rows, samplers=draws)
        if not guarded:
            self._batch._generation_batch.evidence_of = lambda *_: NO_EVIDENCE
        while len(self._batch._generation_batch) < rows:
            self._batch.next()

    def step(self) -> None:
        """Do one step, and note what it took."""
        begun = time.perf_counter()
        self._batch.next()
        self.steps.append(time.perf_counter() - begun)
        self.waits.append(self._encoded_at - begun)

    def _note(self) -> None:
        self._encoded_at = time.perf_counter()


def compare(model: Any, rows: int, sampling: Sampling, steps: int) -> tuple[float, float, float]:
    """Return medians in seconds: a step without the guard, what it adds, how long a frame waits."""
    without, guarded = (Measured(model, rows, sampling, guarded=number) for number in (False, True))
    order, chance = [without, guarded], random.Random(rows)
    for _ in range(steps + WARM_UP):
        chance.shuffle(order)  # who follows itself finds its memory warm
        for measured in order:
            measured.step()
    pairs = zip(without.steps[WARM_UP:], guarded.steps[WARM_UP:], strict=True)
    added = median(theirs - bare for bare, theirs in pairs)
    return median(without.steps[WARM_UP:]), added, median(guarded.waits[WARM_UP:])


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--models", nargs="+", default=["nano", "tiny"], help="or folders")
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    gc.disable()
    click.echo("| model | rows | step (µs) | guard adds (µs) | share | a frame waits (µs) |")
    click.echo("|---|---|---|---|---|---|")
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as folder:
            own = Path(name)
            model, _, _ = read_model(own if own.is_dir() else make(name, Path(folder) / name))
        for rows in chosen.rows:
            for kind, temperature in (("greedy", 0.0), ("sampled", 0.8)):
                sampling = Sampling(7, temperature=temperature)
                count = chosen.steps if rows < ROWS[-1] else chosen.steps // 4
                bare, added, wait = compare(model, rows, sampling, count)
                us = [round(seconds * 1e6) for seconds in (bare, added, wait)]
                share = f"{added / bare:+.1%}"
                what = f"{own.name}, {kind}"
                click.echo(f"| {what} | {rows} | {us[0]} | {us[1]} | {share} | {us[2]} |")


if __name__ == "__main__":
    main()
