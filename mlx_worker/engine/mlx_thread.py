"""One thread for every mlx call of a program with several threads.

mlx's streams belong to the thread that made them, so one thread does all the work. The thread
clears its streams before the interpreter ends: a thread with streams aborts the process at its exit
(mlx, pull request 3395). The thread is a daemon, so that the interpreter does not wait for it.
[child]
"""

from __future__ import annotations

import atexit
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class MlxThread:
    """Run functions on one thread, one after the other."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="mlx", daemon=True).start()
        atexit.register(self.run, mx.clear_streams)

    def run(self, work: Callable[[], T]) -> T:
        """Run a function on the thread; return its result or raise its error."""
        done: Future[T] = Future()
        self._work.put((done, work))
        return done.result()

    def _serve(self) -> None:
        while True:
            done, work = self._work.get()
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001  (raised again in the caller)
                done.set_exception(error)
