"""From nothing to a process and the pipe to it. [front]"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from mlx_worker.supervisor.process.connection import Link, Owner, connect
from mlx_worker.supervisor.process.process import CHILD_COMMAND, NO_VARIABLES, spawn
from mlx_worker.supervisor.process.stderr import LastWords

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_worker.supervisor.process.process import ChildProcess
    from mlx_worker.wire.messages import Hello


@dataclass(frozen=True, slots=True)
class Launched:
    """A process, the front's end of its pipe, its stderr, and a hello that was heard before.

    `env` are the variables of its model that the process was started with.
    """

    process: ChildProcess
    link: Link
    words: LastWords
    hello: Hello | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class Launch(Protocol):
    """Whoever gives a child its process."""

    async def __call__(self, owner: Owner) -> Launched:
        """A process that the owner is told of from here on. Raises OSError where none can be."""


class Launcher(Protocol):
    """Starts processes for children: the one seam between a node and what runs its models."""

    async def __call__(self, owner: Owner, env: Mapping[str, str] = NO_VARIABLES) -> Launched:
        """Start a process with these variables of its model. Raises OSError if that fails."""


@dataclass(frozen=True, slots=True)
class ProcessLauncher:
    """Starts a process of the operating system for each child."""

    command: Sequence[str]

    async def __call__(self, owner: Owner, env: Mapping[str, str] = NO_VARIABLES) -> Launched:
        """Start a process with these variables of its model. Raises OSError if that fails."""
        link = Link(owner)
        theirs = await connect(link)
        with theirs:
            try:
                process = await spawn(self.command, theirs.fileno(), env)
            except OSError as error:
                link.close()
                raise OSError(f"cannot start {self.command[0]}: {error}") from error
            except BaseException:
                link.close()
                raise
        return Launched(process, link, LastWords(process), env=env)


CHILD_LAUNCHER: Final = ProcessLauncher(CHILD_COMMAND)
"""Starts the product's own child."""
