"""Serve one node: listen, accept connections, and end in order.

The sockets are bound before anything else. So a port that is in use costs nothing, and clients
that come early wait in the sockets' queues instead of meeting a refusal.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mlx_worker.api.admin.reload import CONFIG_RELOADER
from mlx_worker.api.context import ADDRESSES, CONTEXT
from mlx_worker.api.middleware.auth import CREDENTIALS
from mlx_worker.api.middleware.connections import CONNECTION_LIMITER
from mlx_worker.app import build_app
from mlx_worker.errors import StorageError
from mlx_worker.listening import BACKLOG, listen, url_of_socket
from mlx_worker.logs import Entry
from mlx_worker.service.sd_notify import Notifier
from mlx_worker.signals import change_log_level_at_user_signals, reload_at_hangup, stop_signals
from mlx_worker.supervisor.blas.preparation import BlasPreparation, prepare
from mlx_worker.supervisor.outage import end_at_outage
from mlx_worker.supervisor.process.launch.launcher import child_launcher
from mlx_worker.supervisor.process.launch.private_tmp import scratch_folder
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.system.file_limit import (
    connection_budget,
    raise_limit,
    wanted_files,
    warn_of_few_files,
)
from mlx_worker.system.process_titles import set_port, set_title

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from mlx_worker.api.middleware.connections import ConnectionLimiter
    from mlx_worker.config.schema import Config
    from mlx_worker.supervisor.node import Node
    from mlx_worker.supervisor.process.launch.launcher import Launcher

__all__ = ["build_app", "serve"]

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a connection has for the TLS handshake."""

ABORT_DELAY = 1.0
"""Seconds after the end of a drain in which clients may still read answers that were cut off."""


async def serve(
    config: Config,
    *,
    on_listening: Callable[[str], Awaitable[None]] | None = None,
    launcher: Launcher | None = None,
) -> None:
    """Serve until SIGTERM or ctrl-C, then drain, end the children in reverse order, and return.

    SIGHUP reloads the configuration. A second SIGTERM or ctrl-C cuts the drain short.
    `on_listening` is awaited, while the node serves, with the first base URL of the node; the node
    stops when it raises. Without a launcher, processes run the real child, with the BLAS of the
    configuration. Raises NothingServed where no model could be served for
    `exit_when_failed_for`.
    """
    app = _app_of(config, launcher)
    _check_scratch_folder()
    warn_of_few_files()
    _fit_connections(app[CONNECTION_LIMITER], len(config.models))
    sockets = listen(config.server)
    app[ADDRESSES] = urls = tuple(url_of_socket(sock, app[CREDENTIALS].tls) for sock in sockets)
    set_port(sockets[0].getsockname()[1])
    set_title("front")
    drain = config.supervisor.drain_timeout
    with (
        stop_signals() as stop,
        Notifier.of_this_process() as notifier,
        contextlib.ExitStack() as stack,
    ):
        for sock in sockets:
            stack.enter_context(sock)
        shutdown_timeout = drain + 2 * ABORT_DELAY
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=shutdown_timeout)
        await runner.setup()
        try:
            async with _accept_connections(runner, sockets):
                gc.freeze()  # imported modules stay: to collect them again takes 50 ms
                log.info("listening on %s", ", ".join(urls))
                node = app[CONTEXT].node
                notifier.ready()
                with (
                    reload_at_hangup(app[CONFIG_RELOADER], notifier),
                    change_log_level_at_user_signals(node, config.log.level),
                ):
                    outage = end_at_outage(node, config.supervisor.exit_when_failed_for)
                    ready = [on_listening(urls[0])] if on_listening else []
                    await _wait_until_stopped(stop, outage, *ready)
                notifier.stopping()
                stop.clear()
                pause = PauseDetector(asyncio.get_running_loop(), ABORT_DELAY)
                stack.callback(pause.close)
                limiter = app[CONNECTION_LIMITER]
                stack.enter_context(
                    abort_leftover_connections(limiter, drain + ABORT_DELAY, stop, pause)
                )
                await _drain(node, stop)
        finally:
            await runner.cleanup()


def _app_of(config: Config, launcher: Launcher | None) -> web.Application:
    """Return the application; without a launcher, one that runs the real child."""
    if launcher is not None:
        return build_app(config, launcher=launcher)
    blas = BlasPreparation(partial(prepare, config))
    return build_app(config, launcher=child_launcher(blas.of_new_process), blas=blas)


@contextlib.asynccontextmanager
async def _accept_connections(
    runner: web.AppRunner, sockets: Sequence[socket.socket]
) -> AsyncIterator[None]:
    """Accept connections at the sockets, and count them in the connection limiter."""
    server, tls = runner.server, runner.app[CREDENTIALS].tls
    assert server is not None, "the runner was set up"
    with contextlib.ExitStack() as listeners:
        for sock in sockets:
            listener = await asyncio.get_running_loop().create_server(
                partial(runner.app[CONNECTION_LIMITER].create_protocol, server),
                sock=sock,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT,
            )
            listeners.callback(listener.close)
        yield


def _check_scratch_folder() -> None:
    """Raise StorageError where children could not have their private folders."""
    try:
        scratch_folder()
    except OSError as error:
        problem = f"children need a private folder in the user's cache folder: {error}"
        raise StorageError(problem) from error


def _fit_connections(limiter: ConnectionLimiter, models: int) -> None:
    """Lower the limits on connections to the number of open files that the system allows."""
    wanted = limiter.places
    files = raise_limit(wanted_files(wanted, models))
    places = connection_budget(files, wanted, models)
    if places != wanted:
        limiter.lower_limits(places)
        entry = Entry(
            "max_connections lowered",
            configured=wanted.working,
            connections=places.working,
            open_files=files,
        )
        log.warning(entry)


async def _wait_until_stopped(stop: asyncio.Event, *others: Awaitable[None]) -> None:
    """Wait for the stop event. Raises what any of the others raises meanwhile."""
    stopped = asyncio.ensure_future(stop.wait())
    tasks = [asyncio.ensure_future(other) for other in others]
    waiting: set[asyncio.Future[Any]] = {stopped, *tasks}
    try:
        while not stopped.done():
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                await task
    finally:
        for task in (stopped, *tasks):
            task.cancel()


@contextlib.contextmanager
def abort_leftover_connections(
    limiter: ConnectionLimiter, timeout: float, stop: asyncio.Event, pause: PauseDetector
) -> Iterator[None]:
    """Abort every connection that is left after `timeout` seconds, or soon after the next signal.

    A client that does not read its answer would keep its handler running, and so the node. A pause
    of this process starts the timeout again, as it does for the drain.
    """
    timers = [pause.timer(timeout, limiter.abort_all)]

    async def abort_after_signal() -> None:
        await stop.wait()
        timers.append(pause.timer(ABORT_DELAY, limiter.abort_all))

    task = asyncio.create_task(abort_after_signal())
    try:
        yield
    finally:
        task.cancel()
        for timer in timers:
            timer.cancel()


async def _drain(node: Node, stop: asyncio.Event) -> None:
    """Stop the node; a second signal ends the streams that still run."""
    log.info("draining: no new work; a second signal ends running streams")
    drained = asyncio.ensure_future(node.stop())
    interrupted = asyncio.ensure_future(stop.wait())
    await asyncio.wait({drained, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        node.drain.cut_short()
    await drained
    interrupted.cancel()
