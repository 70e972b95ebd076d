"""Runs a test product in a process of its own, with a library preloaded or without.

[front]
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.supervisor.blas.child_blas import (
    PRELOAD,
    ChildBlas,
    FileState,
    NoCpuBuild,
    NoFastBlas,
)
from mlx_worker.supervisor.process.launch.environment import without_secrets
from mlx_worker.wire.blas_facts import BlasFacts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMAND: Final = (sys.executable, "-P", "-m", "mlx_worker.child.blas_trial")
PREFIX: Final = "blas "
"""What the line of the result begins with."""

TRIAL_SECONDS: Final = 30.0


def measure(blas: ChildBlas, seconds: float = TRIAL_SECONDS) -> BlasFacts:
    """Return what a process with this BLAS finds. Raises NoFastBlas where the process fails."""
    inherited = without_secrets(os.environ)
    if blas.library is not None:
        inherited.pop(PRELOAD, None)  # another BLAS would be tried in place of this one
    try:
        ran = subprocess.run(  # noqa: S603  (our own words, no shell)
            COMMAND,
            env=blas.with_preload(inherited),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoFastBlas(f"the test product did not end: {error}") from error
    for line in ran.stdout.splitlines():
        if line.startswith(PREFIX):
            return msgspec.json.decode(line.removeprefix(PREFIX), type=BlasFacts)
    lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
    why = lines[-1][:200] if lines else f"exit status {ran.returncode}"
    raise NoFastBlas(f"the test product failed: {why}")


def tried(library: Path, threads: Mapping[str, str], seconds: float = TRIAL_SECONDS) -> ChildBlas:
    """Return a BLAS that a product has proved right. Raises NoFastBlas."""
    try:
        files = (FileState.of(library),)
    except OSError as error:
        raise NoFastBlas(f"{library}: {error.strerror}") from error
    blas = ChildBlas(library, library.name, threads, files)
    facts = measure(blas, seconds)
    if not facts.name:
        raise NoCpuBuild(f"mlx computes on {facts.device}")
    if not facts.library:
        raise NoFastBlas(f"{library} cannot be preloaded, or has no cblas_sgemm")
    if not facts.error <= 1:
        raise NoFastBlas(f"{library} multiplies wrong")
    return blas
