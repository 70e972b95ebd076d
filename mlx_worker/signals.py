"""Handle the signals of a serving node: stop, reload the configuration, change the log level.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from functools import partial
from typing import TYPE_CHECKING

from mlx_worker.api.admin.endpoints import set_log_level
from mlx_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.api.admin.reload import ConfigReloader
    from mlx_worker.config.schema import LogLevel
    from mlx_worker.service.sd_notify import Notifier
    from mlx_worker.supervisor.node import Node


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """Yield an event that is set by every SIGTERM and ctrl-C."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def reload_at_hangup(reload_config: ConfigReloader, notifier: Notifier) -> Iterator[None]:
    """Reload the configuration at SIGHUP; the log says what changed."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def reload_and_notify() -> None:
        notifier.reloading()
        with contextlib.suppress(WorkerError):
            await reload_config()
        notifier.ready()

    def begin() -> None:
        task = loop.create_task(reload_and_notify())
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
    try:
        yield
    finally:
        # A hangup must not end the process before it has drained.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        for task in running:
            task.cancel()


@contextlib.contextmanager
def change_log_level_at_user_signals(node: Node, configured: LogLevel) -> Iterator[None]:
    """Log everything from SIGUSR1 on, and the configured level again from SIGUSR2 on."""
    loop = asyncio.get_running_loop()
    levels: dict[int, LogLevel] = {signal.SIGUSR1: "debug", signal.SIGUSR2: configured}
    for number, level in levels.items():
        loop.add_signal_handler(number, partial(set_log_level, node, level))
    try:
        yield
    finally:
        # As with a hangup: the default action would end the process.
        for number in levels:
            loop.add_signal_handler(number, lambda: None)
