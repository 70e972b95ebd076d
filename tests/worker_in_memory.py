"""A fake worker in the test's own process: no start to wait for, no interpreter to pay.

The pipe is the product's own, a socketpair; at its other end a task does what the flags say. Such
a worker has the number of a process, by which a test ends it as it would end a process
(`tests.supervisor_harness.kill_worker`).
What only an operating system does (an exit seen through a PID, a stopped tree, descriptors, an
environment) is tested with real processes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

from mlx_worker.child.pipe import EXIT_FRONT_GONE, EXIT_GARBAGE
from mlx_worker.errors import ProtocolViolation
from mlx_worker.supervisor.process.connection import (
    ChildConnection,
    ConnectionCallbacks,
    connect,
)
from mlx_worker.supervisor.process.launch.launcher import Launched
from mlx_worker.supervisor.process.launch.process import NO_VARIABLES
from mlx_worker.supervisor.process.launch.stderr import StderrTail
from mlx_worker.wire.framing import encode, frames_to_child
from tests.fake_worker import EXIT_AS_TOLD, GARBAGE, FakeWorker, Tick, arguments

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterable, Mapping
    from pathlib import Path

    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.messages import ToChild

_PIDS = itertools.count(5_000_000)  # no operating system counts that far
RUNNING: dict[int, ProcessInMemory] = {}
"""The workers that have not ended, by number."""


class ProcessInMemory(asyncio.Protocol):
    """The host of a worker, and the process that the supervisor sees."""

    def __init__(self, flags: tuple[str, ...]) -> None:
        self.pid = next(_PIDS)
        self.returncode: int | None = None
        self.stderr = asyncio.StreamReader()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._jobs: asyncio.Queue[ToChild | Tick] = asyncio.Queue()
        self._frames = frames_to_child()
        self._transport: asyncio.Transport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._worker = FakeWorker(arguments(flags), self)
        RUNNING[self.pid] = self

    async def start(self, theirs: socket.socket) -> None:
        """Begin to live, on the child's end of a pipe."""
        await self._loop.create_unix_connection(lambda: self, sock=theirs)
        self._in_background(self._run())

    # --- as a process ---

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Do what a process of `tests/worker_in_process.py` does at this signal."""
        if self.returncode is not None or (self._stopped and number != signal.SIGKILL):
            return
        if number == signal.SIGUSR1:
            self.send_bytes(GARBAGE)
        elif number == signal.SIGUSR2:
            self._finish(EXIT_AS_TOLD)
        elif number == signal.SIGSTOP:
            self._stopped = True
            self._cancel()
        elif number != signal.SIGTERM or not self._worker.ignores_eof:
            self._finish(-number)

    def _finish(self, code: int) -> None:
        """End: what was sent before is still delivered, as the kernel would."""
        if self.returncode is None:
            self.returncode = code
            del RUNNING[self.pid]
            self._cancel()
            if self._transport is not None:
                self._transport.close()
            self.stderr.feed_eof()
            self._ended.set()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._stopped:
            return
        try:
            for message in self._frames.feed(data):
                if (pong := self._worker.reply_at_once(message)) is not None:
                    self.send([pong])
                else:
                    self._jobs.put_nowait(message)
        except ProtocolViolation:
            self._finish(EXIT_GARBAGE)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if not self._worker.ignores_eof and not self._stopped:
            self._finish(EXIT_FRONT_GONE)

    # --- as the worker's host ---

    def send(self, messages: Iterable[WireMessage]) -> None:
        self.send_bytes(b"".join(map(encode, messages)))

    def send_bytes(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def write(self, text: str) -> None:
        self.stderr.feed_data(text.encode())

    def has_jobs(self) -> bool:
        return not self._jobs.empty()

    async def next_job(self) -> ToChild | Tick:
        return await self._jobs.get()

    def follow(self, pace: Path) -> None:
        self._in_background(self._follow(pace))

    async def wait_for_byte(self, fifo: Path) -> None:
        with _Bytes(fifo) as leave:
            await leave.next()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def hang(self) -> NoReturn:
        while True:
            await asyncio.Event().wait()

    async def end(self, code: int) -> NoReturn:
        self._finish(code)
        await self.hang()  # it is cancelled there

    # --- inside ---

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=f"worker {self.pid}"))

    async def _run(self) -> None:
        try:
            await self._worker.run()
        except Exception:  # noqa: BLE001  (as an interpreter ends: with a traceback, and 1)
            self.write(traceback.format_exc())
            self._finish(1)

    async def _follow(self, pace: Path) -> None:
        with _Bytes(pace) as fifo:
            while await fifo.next():
                self._jobs.put_nowait(Tick())


class _Bytes:
    """The reading end of a named pipe, byte by byte, without holding the loop."""

    def __init__(self, fifo: Path) -> None:
        self._fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    async def next(self) -> bytes:
        """Wait for the next byte; b"" once the test has closed the pipe."""
        while True:
            with suppress(BlockingIOError):
                return os.read(self._fd, 1)
            readable = asyncio.Event()
            self._loop.add_reader(self._fd, readable.set)
            try:
                await readable.wait()
            finally:
                self._loop.remove_reader(self._fd)


@dataclass(frozen=True, slots=True)
class MemoryLauncher:
    """Starts a worker in memory for each child, with these flags."""

    flags: tuple[str, ...]

    async def __call__(
        self, callbacks: ConnectionCallbacks, env: Mapping[str, str] = NO_VARIABLES
    ) -> Launched:
        connection = ChildConnection(callbacks)
        theirs = await connect(connection)
        process = ProcessInMemory(self.flags)
        await process.start(theirs)
        return Launched(process, connection, StderrTail(process), env=env)
