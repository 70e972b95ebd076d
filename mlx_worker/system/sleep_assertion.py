"""Keep a Mac awake while the node has work: `caffeinate` holds the assertion as a child process.

`-i` prevents the sleep of an idle system, and `-w` ends the assertion with the front, also after
SIGKILL. The display may sleep: `-d` is never passed. A machine whose lid is closed sleeps anyway.

Checks are counted, not timed: none is made while the machine sleeps, so a sleep is no time without
work. Other systems than macOS start nothing. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

log = logging.getLogger(__name__)

PROGRAM: Final = "/usr/bin/caffeinate"

CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks for work."""

CHECKS_UNTIL_RELEASE: Final = 60
"""Checks without work in a row after which the assertion ends: short pauses do not end it."""

LONGEST_WAIT: Final = 64
"""Checks between two starts of a program that ends by itself; the wait doubles up to this."""


class Holder(Protocol):
    """The process that holds the assertion until it ends."""

    @property
    def pid(self) -> int:
        """Return its process id."""

    @property
    def returncode(self) -> int | None:
        """Return its exit status; None while it runs."""

    def terminate(self) -> None:
        """Have it end."""

    async def wait(self) -> int:
        """Wait for its end."""


async def launch_program(command: tuple[str, ...]) -> Holder:
    """Start a process without input and output. Raises OSError."""
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        # Only the front handles ctrl-C in a terminal.
        start_new_session=True,
    )


class SleepAssertion:
    """Keeps the machine awake while the context is entered and there is work.

    `has_work` returns True while the machine is needed; None: the machine may always sleep.
    """

    def __init__(
        self,
        has_work: Callable[[], bool] | None,
        *,
        platform: str = sys.platform,
        program: str = PROGRAM,
        launch: Callable[[tuple[str, ...]], Awaitable[Holder]] = launch_program,
    ) -> None:
        self._has_work = has_work if platform == "darwin" else None
        self._command = (program, "-i", "-w", str(os.getpid()))
        self._launch = launch
        self._holder: Holder | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle_checks = CHECKS_UNTIL_RELEASE
        self._ends = 0
        self._wait = 0
        self._has_warned = False

    @property
    def pid(self) -> int | None:
        """Return the id of the process that holds the assertion; None if it is not held."""
        holder = self._holder
        return holder.pid if holder is not None and holder.returncode is None else None

    async def __aenter__(self) -> Self:
        if self._has_work is not None:
            self._task = asyncio.create_task(self._run(), name="sleep assertion")
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._release()

    async def _run(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(CHECK_INTERVAL)

    async def check(self) -> None:
        """Acquire, keep or release the assertion, by the work there is now."""
        has_work = self._has_work is not None and self._has_work()
        self._idle_checks = 0 if has_work else self._idle_checks + 1
        if self._idle_checks >= CHECKS_UNTIL_RELEASE:
            await self._release()
        elif self.pid is None:
            await self._acquire()

    async def _acquire(self) -> None:
        if self._holder is not None:
            self._on_ended(f"ended with {self._holder.returncode}")
        if self._wait > 0:
            self._wait -= 1
            return
        try:
            self._holder = await self._launch(self._command)
        except OSError as error:
            self._on_ended(f"cannot be started: {error.strerror}")

    def _on_ended(self, how: str) -> None:
        """Wait longer before each further start; the first end is a warning."""
        self._holder = None
        self._wait = min(2**self._ends, LONGEST_WAIT)
        self._ends += 1
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        log.log(level, "the machine may sleep while the node works: %s %s", self._command[0], how)

    async def _release(self) -> None:
        holder, self._holder = self._holder, None
        self._ends = self._wait = 0
        if holder is not None and holder.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                holder.terminate()
            await holder.wait()
