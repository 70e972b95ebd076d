"""Work that a pull does in a process of its own: converting, and talking to a hub.

A process can be stopped in the middle, which a thread cannot, and it takes its imports (mlx,
huggingface_hub) with it. The child says progress in lines on stdout and its failure in the last
line on stderr, with the exit code of the error; the parent makes the error again. [both]
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import (
    BadModelFolder,
    BrokenDownload,
    SourceUnavailable,
    StorageError,
    WorkerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_REMADE: Final[dict[int, type[WorkerError]]] = {
    SourceUnavailable.exit_code: SourceUnavailable,
    StorageError.exit_code: StorageError,
}


async def run_module(
    module: str,
    *arguments: str,
    on_line: Callable[[str], None],
    bad_data: type[BadModelFolder | BrokenDownload],
    lock: int | None = None,
) -> None:
    """Run `python -P -m module arguments…` to its end; `on_line` gets its stdout line by line.

    The child inherits the descriptor `lock`, so that a pull that was killed stays locked until
    its orphan is gone too; None: there is no lock. Raises the child's error; `bad_data` is the
    class for exit code 65 and for a child that its input crashed. Cancelling kills the child and
    waits for its end.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=() if lock is None else (lock,),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        _, complaint = await asyncio.gather(_follow(process.stdout, on_line), process.stderr.read())
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        raise _failure(module, code, complaint.decode(errors="replace"), bad_data)


def run_to_exit_code(work: Callable[[], None]) -> int:
    """Do the child's work; say a WorkerError in one line on stderr. Returns the exit code."""
    try:
        work()
    except WorkerError as error:
        sys.stderr.write(" ".join(error.message.split()) + "\n")
        return error.exit_code
    return 0


async def _follow(stdout: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    async for line in stdout:
        on_line(line.decode(errors="replace").rstrip("\n"))


def _failure(module: str, code: int, complaint: str, bad_data: type[WorkerError]) -> WorkerError:
    if code < 0:
        name = signal.Signals(-code).name
        return bad_data(f"{module} was ended by {name}: its input is damaged, or memory ran out")
    lines = [line for line in complaint.splitlines() if line.strip()]
    message = lines[-1] if lines else f"{module} ended with exit code {code}"
    remade = _REMADE | {bad_data.exit_code: bad_data}
    return remade.get(code, WorkerError)(message)
