"""One thread for every mlx call of a program that has threads of its own.

mlx's streams belong to the thread that made them, so whoever calls, this thread does the work. It
clears its streams before the interpreter ends: a thread that mlx still holds streams of aborts the
process at its exit (mlx, pull request 3395). A daemon, so that nothing waits for it before that.
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
    """Runs what it is given, one after the other."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="mlx", daemon=True).start()
        atexit.register(self.run, mx.clear_streams)

    def run(self, work: Callable[[], T]) -> T:
        """Do this there and return what it returns, or raise what it raises."""
        done: Future[T] = Future()
        self._work.put((done, work))
        return done.result()

    def _serve(self) -> None:
        while True:
            done, work = self._work.get()
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001  (it is raised again in the caller)
                done.set_exception(error)
