"""Run commands of the operating system; tests replace this function.

[front]
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_worker.errors import ServiceManagerError

TIMEOUT = 120.0
"""Seconds for one command; stopping a service may take longer, so `stop` does not wait."""


@dataclass(frozen=True)
class CommandResult:
    """The result of a command: its exit status, and the text of both outputs."""

    status: int
    output: str


Run = Callable[[Sequence[str]], CommandResult]


def run(command: Sequence[str]) -> CommandResult:
    """Run a system command to its end. One that this machine does not have ends with 127."""
    try:
        done = subprocess.run(  # noqa: S603  (our own words, no shell)
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    except FileNotFoundError:
        return CommandResult(127, f"{command[0]}: there is no such command here")
    except (OSError, subprocess.TimeoutExpired) as error:
        return CommandResult(126, str(error))
    return CommandResult(done.returncode, done.stdout.strip())


def run_or_raise(run_: Run, *command: str) -> str:
    """Return the output of a command. Raises ServiceManagerError with it if the command fails."""
    ran = run_(command)
    if ran.status != 0:
        raise ServiceManagerError(f"`{' '.join(command)}` ended with {ran.status}: {ran.output}")
    return ran.output
