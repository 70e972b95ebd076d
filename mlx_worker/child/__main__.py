"""The entry point of a child: `python -m mlx_worker.child --fd N`.

The pipe is read before any heavy import, so that even a child that is still importing ends with its
front. Then all modules that a model could need are imported, `Hello` is sent, and the main thread
becomes the engine's. [child]
"""

from __future__ import annotations

import argparse
import faulthandler
import os
from concurrent.futures import Future
from typing import Final

from mlx_worker.child.imported_code import ImportedCode
from mlx_worker.child.pipe import Pipe
from mlx_worker.log_writer import STDERR
from mlx_worker.logs import set_up_child
from mlx_worker.system.garbage import imports_kept
from mlx_worker.system.loaded_blas import keep_preload_from_helpers
from mlx_worker.system.process_titles import set_title

STDOUT: Final = 1


def main() -> None:
    """Serve one model until the front ends."""
    parser = argparse.ArgumentParser(prog="python -m mlx_worker.child")
    parser.add_argument("--fd", type=int, required=True, help="the inherited end of the pipe")
    parser.add_argument("--silence", type=float, help="seconds without a byte that end a rank")
    arguments = parser.parse_args()
    faulthandler.enable()
    os.dup2(STDERR, STDOUT)  # what a model's own code prints is read and logged by the front
    set_up_child()
    keep_preload_from_helpers()
    set_title("child")
    pipe = Pipe(arguments.fd, arguments.silence)
    worker: Future[EngineWorker] = Future()
    # The front sends nothing before Hello: this never waits, but sees EOF from the start.
    pipe.listen(lambda message: worker.result().on_message(message))
    code = ImportedCode()
    with imports_kept():
        from mlx_worker.child.worker import EngineWorker  # noqa: PLC0415  (seconds of imports)

    ours = EngineWorker(pipe, code)
    worker.set_result(ours)
    ours.run()


if __name__ == "__main__":
    main()
