"""Blocking calls in daemon threads, which nothing ever has to wait for.

A file on a stalled share may block a call for ever. Threads of an executor are joined when the
process ends, so that a stop would wait for the share; a daemon thread is left behind. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

T = TypeVar("T")


def call_in_daemon_thread(call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run a blocking call in a daemon thread; the future gets the result or the exception."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    # An answer that comes after the caller gave up waiting is no error of the loop.
    future.add_done_callback(lambda late: late.cancelled() or late.exception())

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        caught: BaseException | None = None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  (the future raises it)
            caught = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the node has ended
            loop.call_soon_threadsafe(deliver, result, caught)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # the system has no thread left
        future.set_exception(OSError(str(error)))
    return future


def call_within(seconds: float, call: Callable[[], T], name: str) -> T:
    """Run a blocking call in a daemon thread, outside a loop, and return its result.

    Raises TimeoutError after `seconds`, or the exception of the call.
    """
    ended: list[Callable[[], T]] = []

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  (the caller raises it)
            ended.append(partial(_raise, error))
        else:
            ended.append(lambda: result)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return ended[0]()


def _raise(error: BaseException) -> NoReturn:
    raise error
