"""Starts the process of a child, and the pipe to it.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from mlx_worker.supervisor.blas.child_blas import OWN_BLAS
from mlx_worker.supervisor.process.connection import ChildConnection, ConnectionCallbacks, connect
from mlx_worker.supervisor.process.launch.process import (
    CHILD_COMMAND,
    KEEPER_COMMAND,
    NO_VARIABLES,
    REMOTE_COMMAND,
    spawn,
    spawn_keeper,
    spawn_runner,
)
from mlx_worker.supervisor.process.launch.stderr import StderrTail
from mlx_worker.wire.rank_place import KeepRank

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mlx_worker.config.schema import HostConfig
    from mlx_worker.supervisor.blas.child_blas import ChildBlas
    from mlx_worker.supervisor.process.launch.group import RankGroup
    from mlx_worker.supervisor.process.launch.process import ChildProcess
    from mlx_worker.wire.messages import Hello


@dataclass(frozen=True, slots=True)
class Launched:
    """A process, the front's end of its pipe, its stderr, and a hello that has arrived already.

    `env` has the environment variables of the model that the process was started with. `group` has
    the other processes of the model; None: it has one.
    """

    process: ChildProcess
    connection: ChildConnection
    stderr_tail: StderrTail
    hello: Hello | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    group: RankGroup | None = None


class Launch(Protocol):
    """Starts the processes of one model's child."""

    async def __call__(self, callbacks: ConnectionCallbacks) -> Launched:
        """Start a process that reports to the callbacks. Raises OSError if that fails."""


class LaunchRank(Protocol):
    """Starts the ranks of one model other than rank 0, each behind its keeper."""

    async def __call__(self, callbacks: ConnectionCallbacks, host: HostConfig) -> Launched:
        """Start a rank on a host. Raises OSError if that fails."""


class Launcher(Protocol):
    """Starts processes for children: the only seam between a node and what runs its models."""

    async def __call__(
        self, callbacks: ConnectionCallbacks, env: Mapping[str, str] = NO_VARIABLES
    ) -> Launched:
        """Start a process with these variables of its model. Raises OSError if that fails."""


@dataclass(frozen=True, slots=True)
class ProcessLauncher:
    """Starts a process of the operating system for each child.

    `blas` says what the process preloads; without it, mlx computes with its own BLAS. `start` hands
    the process its end of the pipe.
    """

    command: Sequence[str]
    blas: Callable[[], Awaitable[ChildBlas]] | None = None
    start: Callable[..., Awaitable[ChildProcess]] = spawn

    async def __call__(
        self, callbacks: ConnectionCallbacks, env: Mapping[str, str] = NO_VARIABLES
    ) -> Launched:
        """Start a process with these variables of its model. Raises OSError if that fails."""
        blas = await self.blas() if self.blas else OWN_BLAS
        connection = ChildConnection(callbacks)
        theirs = await connect(connection)
        with theirs:
            try:
                process = await self.start(self.command, theirs.fileno(), env, blas)
            except OSError as error:
                connection.close()
                raise OSError(f"cannot start {self.command[0]}: {error}") from error
            except BaseException:
                connection.close()
                raise
        return Launched(process, connection, StderrTail(process), env=env)


def child_launcher(blas: Callable[[], Awaitable[ChildBlas]]) -> ProcessLauncher:
    """Return what starts the product's own child with a BLAS."""
    return ProcessLauncher(CHILD_COMMAND, blas)


async def launch_rank(
    launcher: Launcher, callbacks: ConnectionCallbacks, host: HostConfig, env: Mapping[str, str]
) -> Launched:
    """Start another rank beside the children of a launcher, or on another host, with its keeper.

    Raises OSError if that fails.
    """
    if host.is_here:
        blas = launcher.blas if isinstance(launcher, ProcessLauncher) else None
        start = ProcessLauncher(KEEPER_COMMAND, blas, spawn_keeper)
        order = KeepRank()
    else:
        start = ProcessLauncher([*host.run, *REMOTE_COMMAND], start=spawn_runner)
        order = KeepRank(host.address, dict(env))
    launched = await start(callbacks, env)
    launched.connection.send(order)
    return launched


CHILD_LAUNCHER: Final = ProcessLauncher(CHILD_COMMAND)
"""Starts the product's own child, with mlx's own BLAS."""
