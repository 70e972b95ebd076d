"""The finding about matrix products: which library computes them, and how fast.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.cli.doctor.finding import Finding, ok, warn
from mlx_worker.config.schema import Config
from mlx_worker.errors import cause_of
from mlx_worker.supervisor.blas.child_blas import OWN_BLAS, NoCpuBuild, NoFastBlas
from mlx_worker.supervisor.blas.preparation import find_blas
from mlx_worker.supervisor.blas.trial import measure

if TYPE_CHECKING:
    from mlx_worker.supervisor.blas.child_blas import ChildBlas

ADVICE = "docs/how-to/linux-cpu.md"


def blas(config: Config | None) -> Finding:
    """Measure the BLAS that models would have, in a process of its own."""
    try:
        chosen = find_blas(config or Config(models=()))
        return ok("blas", _measured(chosen))
    except NoCpuBuild as error:
        return ok("blas", str(error))
    except NoFastBlas as error:
        why = str(error)
    except OSError as error:
        why = cause_of(error)
    try:
        return warn("blas", f"{_measured(OWN_BLAS)}: {why}", ADVICE)
    except NoFastBlas as error:
        return warn("blas", str(error), ADVICE)


def _measured(chosen: ChildBlas) -> str:
    facts = measure(chosen)
    return f"{facts.name}, {facts.gflops:g} GFLOP/s in float32"
