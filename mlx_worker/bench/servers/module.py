"""Run a measuring module to its end: a job on its stdin, a Sample on its stdout.

[bench]
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.bench.sample import Sample
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from mlx_worker.bench.job import BaselineJob, LoadJob
    from mlx_worker.bench.scaling.job import StructureJob

DEADLINE: Final = 600.0
"""Seconds for one measurement: beyond it something hangs."""


def run_module(module: str, job: BaselineJob | LoadJob | StructureJob) -> Sample:
    """Run the module and return its sample. Raises BenchmarkError with its last line."""
    command = [sys.executable, "-m", module]
    try:
        done = subprocess.run(  # noqa: S603  (our own module)
            command,
            input=msgspec.json.encode(job),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{module} was not done after {DEADLINE:.0f} s") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        raise BenchmarkError(f"{module} ended with {done.returncode}: {said[-1]}")
    return msgspec.json.decode(done.stdout, type=Sample)
