"""Run a command with the BLAS that children of a node have: the tests' own mlx_lm too.

python -m tests.tools.with_blas python -m pytest -m fidelity tests/fidelity
"""

from __future__ import annotations

import os
import sys

from mlx_worker.config.schema import Config
from mlx_worker.supervisor.blas.preparation import find_blas
from mlx_worker.system.loaded_blas import PRELOADED


def main() -> None:
    """Find the BLAS, or end with why there is none; then become the command."""
    blas = find_blas(Config(models=()))
    environ = blas.with_preload(os.environ)
    environ.pop(PRELOADED, None)  # the processes that the command starts have it too
    sys.stderr.write(f"with {blas.name}: {blas.library}\n")
    os.execvpe(sys.argv[1], sys.argv[1:], environ)


if __name__ == "__main__":
    main()
