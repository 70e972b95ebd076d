"""What the guard adds to a decode step: the same batch with and without it, a step of each in turn.

For contributors: `python -m tests.tools.guard_cost [--steps 400]` on a machine that does nothing
else. Prints a Markdown table of medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.engine.batch import Batch
from mlx_worker.engine.guard import Evidence
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.sampling import Draw
from mlx_worker.wire.messages import Sampling
from tests.made_models import make

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import mlx.core as mx

ROWS: Final = (1, 8, 32, 128)
PROMPT: Final = list(range(10, 26))


class _Nothing:
    arrays = ()

    def check(self, present: Collection[int]) -> None:
        """Find nothing."""


def batch(model: Any, rows: int, sampling: Sampling, *, guarded: bool) -> Batch:
    """Return a batch whose rows decode."""
    made = Batch(
        model,
        on_read=lambda _tokens, _seconds: None,
        on_encoded=lambda: None,
        completion_batch_size=rows,
        prefill_batch_size=rows,
    )
    draws = [Draw(sampling, 1 << 20) for _ in range(rows)]
    made.insert([list(PROMPT)] * rows, [1 << 20] * rows, samplers=draws)
    if not guarded:
        nothing: Any = _Nothing()
        made._generation_batch.evidence_of = lambda *_: nothing
    while len(made._generation_batch) < rows:
        made.next()
    return made


def costs(model: Any, rows: int, sampling: Sampling, steps: int) -> tuple[float, float]:
    """Return the median seconds of a step without the guard, and of what the guard adds."""
    batches = [batch(model, rows, sampling, guarded=it) for it in (False, True)]
    times: list[list[float]] = [[], []]
    for step in range(steps):
        for place in (0, 1) if step % 2 else (1, 0):
            begun = time.perf_counter()
            batches[place].next()
            times[place].append(time.perf_counter() - begun)
    without, guarded = (it[len(it) // 10 :] for it in times)
    quick, quick_guarded = (statistics.quantiles(it, n=4)[0] for it in (without, guarded))
    return quick, quick_guarded - quick


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--models", nargs="+", default=["nano", "tiny"])
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    print("| model | rows | step (µs) | guard adds (µs) | share |\n|---|---|---|---|---|")
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as folder:
            model, _, _ = read_model(make(name, Path(folder) / name))
        for rows in ROWS:
            for kind, temperature in (("greedy", 0.0), ("sampled", 0.8)):
                step, added = costs(model, rows, Sampling(7, temperature=temperature), chosen.steps)
                print(
                    f"| {name}, {kind} | {rows} | {step * 1e6:.0f} | {added * 1e6:.1f} "
                    f"| {added / step:.2%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
