"""The command line in this process, on a thread of its own: the node it asks may live here too."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from click.testing import CliRunner

from mlx_worker.cli.main import app
from mlx_worker.errors import WorkerError
from tests.supervisor_harness import soon


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said: its output, or the one line of its error."""

    code: int
    said: str


async def command(*words: str, said: str | None = None) -> Ran:
    """Run a command to its end; `said` is its standard input."""
    return await soon(asyncio.to_thread(run, *words, said=said))


def run(*words: str, said: str | None = None, columns: int = 200) -> Ran:
    """The same, where no loop runs."""
    result = CliRunner().invoke(app, words, input=said, env={"COLUMNS": str(columns)})
    if isinstance(result.exception, WorkerError):
        return Ran(result.exception.exit_code, str(result.exception))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.output)
