"""From nothing to a process and the pipe to it. [front]"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mlx_worker.supervisor.process.connection import Link, Owner, connect
from mlx_worker.supervisor.process.process import NO_VARIABLES, spawn
from mlx_worker.supervisor.process.stderr import LastWords

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from mlx_worker.wire.messages import Hello


@dataclass(frozen=True, slots=True)
class Launched:
    """A process, the front's end of its pipe, its stderr, and a hello that was heard before.

    `env` are the variables of its model that the process was started with.
    """

    process: asyncio.subprocess.Process
    link: Link
    words: LastWords
    hello: Hello | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class Launch(Protocol):
    """Whoever gives a child its process."""

    async def __call__(self, owner: Owner) -> Launched:
        """A process that the owner is told of from here on. Raises OSError where none can be."""


async def launch(
    command: Sequence[str], owner: Owner, env: Mapping[str, str] = NO_VARIABLES
) -> Launched:
    """Start a new process, with these variables of its model. Raises OSError where it cannot be."""
    link = Link(owner)
    theirs = await connect(link)
    with theirs:
        try:
            process = await spawn(command, theirs.fileno(), env)
        except OSError as error:
            link.close()
            raise OSError(f"cannot start {command[0]}: {error}") from error
        except BaseException:
            link.close()
            raise
    return Launched(process, link, LastWords(process), env=env)
