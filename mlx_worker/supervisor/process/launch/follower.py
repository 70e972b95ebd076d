"""A rank other than 0, as the front sees the rank: its keeper, its pipe and its latest reports.

[front]
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from mlx_worker.supervisor.process.launch.keeper import SIGNALLED
from mlx_worker.supervisor.process.launch.process import describe_exit
from mlx_worker.wire.messages import PROTOCOL

if TYPE_CHECKING:
    from mlx_worker.config.schema import HostConfig
    from mlx_worker.supervisor.process.connection import ChildConnection
    from mlx_worker.supervisor.process.launch.launcher import Launched
    from mlx_worker.supervisor.process.launch.process import ChildProcess
    from mlx_worker.supervisor.process.launch.stderr import StderrTail
    from mlx_worker.wire.messages import Hello, Kept, Pong

HOST_TIMEOUT: Final = 15.0
"""Seconds in which the keeper on another host answers."""

REACH_TIMEOUT: Final = 5.0
"""Seconds in which the address of a host is reached whose keeper has answered."""


class Follower:
    """A rank other than 0, from before its launch to its end."""

    def __init__(self, rank: int, label: str, host: HostConfig) -> None:
        self.rank = rank
        self.label = label
        self.host = host
        self.launched: Launched | None = None
        self.has_process = asyncio.Event()
        self.kept: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self.hello: Hello | None = None
        self.pong: Pong | None = None
        self.heard_at = asyncio.get_running_loop().time()
        self._is_killed = False

    def attach(self, launched: Launched) -> None:
        """Keep the process, whose reports may have come before."""
        self.launched = launched
        self.has_process.set()

    @property
    def process(self) -> ChildProcess:
        """Return the process that the front has started: the keeper, or what runs one."""
        return self._of_launch.process

    @property
    def connection(self) -> ChildConnection:
        """Return the front's end of the pipe."""
        return self._of_launch.connection

    @property
    def stderr_tail(self) -> StderrTail:
        """Return the last lines of the keeper and of the rank."""
        return self._of_launch.stderr_tail

    @property
    def _of_launch(self) -> Launched:
        assert self.launched is not None, "the rank was launched"
        return self.launched

    def end(self) -> None:
        """Close the pipe: the keeper ends the rank, and itself."""
        self.connection.close()

    def kill(self) -> None:
        """End a keeper that does not end by itself."""
        self._is_killed |= self.process.returncode is None
        self.process.kill()

    @property
    def has_ended_itself(self) -> bool:
        """True if the rank's process has an exit status of its own: no signal ended it."""
        return 0 < (self.process.returncode or 0) < SIGNALLED

    @property
    def failure(self) -> str:
        """Return how the rank ended by itself; "" while it runs, or if it was ended."""
        code = self.process.returncode
        if not code or self._is_killed:
            return ""
        how = describe_exit(code if code < SIGNALLED else SIGNALLED - code)
        if self.hello is None:  # before any request: what was written has words of none
            how = self.stderr_tail.cause(how)
        cause = self.stderr_tail.computation_failure
        return f"{self.label}: {how}: {cause}" if cause else f"{self.label}: {how}"

    async def reach(self) -> None:
        """Wait until the keeper on another host answers, and until the host's address does.

        Raises OSError with the reason if one of them does not.
        """
        try:
            kept = await asyncio.wait_for(asyncio.shield(self.kept), HOST_TIMEOUT)
        except TimeoutError as error:
            why = f"{self.label}: no answer of {self.host.run[0]} within {HOST_TIMEOUT:g} s"
            raise OSError(why) from error
        address = self.host.address
        if kept.problem:
            raise OSError(f"{self.label}: cannot listen at {address}: {kept.problem}")
        if kept.protocol != PROTOCOL:
            raise OSError(
                f"{self.label}: protocol {kept.protocol}, not {PROTOCOL}: install the same"
                " mlx-worker on all hosts"
            )
        try:
            async with asyncio.timeout(REACH_TIMEOUT):
                _, writer = await asyncio.open_connection(address, kept.port)
            writer.close()
        except OSError as error:
            why = (
                os.strerror(error.errno) if error.errno else f"no answer within {REACH_TIMEOUT:g} s"
            )
            raise OSError(f"{self.label}: {address} cannot be reached: {why}") from error
