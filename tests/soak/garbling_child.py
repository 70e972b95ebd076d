"""The product's child, but for SIGUSR1: then it writes garbage on its pipe.

It knows one model more, `failing_model`'s.

When it does is told by a file of its pid's name: it cannot while it is in a library's hands, and
compiling a kernel takes seconds on a CPU that has never done so.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from mlx_worker.child.__main__ import main

GARBAGE = (2).to_bytes(4, "big") + b"\xc1\xc1"
FOLDER = "MLX_WORKER_GARBLED"
"""In the environment: where the files are."""


def garble(_number: int, _frame: FrameType | None) -> None:
    Path(os.environ[FOLDER], str(os.getpid())).touch()
    os.write(FD, GARBAGE)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))  # wherever this starts, `tests` is found
    from tests.faults import failing_model

    FD = int(sys.argv[sys.argv.index("--fd") + 1])
    signal.signal(signal.SIGUSR1, garble)
    sys.modules[failing_model.MODULE] = failing_model
    main()
