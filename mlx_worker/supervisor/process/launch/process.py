"""The process of a child: its start, its end, and the meaning of its exit code.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from mlx_worker.supervisor.blas.child_blas import OWN_BLAS, ChildBlas
from mlx_worker.supervisor.process.launch.environment import without_secrets
from mlx_worker.supervisor.process.launch.private_tmp import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHILD_COMMAND: Final[Sequence[str]] = (sys.executable, "-P", "-m", "mlx_worker.child")
"""The command of a child; `--fd N` is appended. The front names no other code of the child."""

KEEPER_COMMAND: Final[Sequence[str]] = (sys.executable, "-P", "-m", "mlx_worker", "rank")
"""The command of the keeper of a rank on this host; the pipe is its standard input and output."""

REMOTE_COMMAND: Final[Sequence[str]] = ("mlx-worker", "rank")
"""The command of a keeper on another host, behind that host's `run`."""

CHILD_ENVIRONMENT: Final = {
    # A child reads what is on the disk; it fetches nothing, whatever a model's files say.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # transformers would warn that there is no PyTorch, in every child.
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

CHILD_DEFAULTS: Final = {
    # GPUs with TF32 round the factors of a float32 product to 11 bits. SmolLM2's log-probabilities
    # move by 0.008 with what else is in a batch then, and by 0.00001 without it, on an H100.
    "MLX_ENABLE_TF32": "0",
    # On CUDA, MLX keeps 256 plans of attention in 16 bits, one for each shape, and raises an error
    # from the 513th new shape on, for ever. Nearly every prompt is of a new shape.
    "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
}
"""What a child gets if neither the front nor the model's `env` has the variable."""

NO_VARIABLES: Final[Mapping[str, str]] = MappingProxyType({})
"""The environment variables of a model whose configuration has no `env`."""


class ChildProcess(Protocol):
    """What the supervisor needs of a process, real or in memory."""

    @property
    def pid(self) -> int:
        """Return the number that logs and reports name the process by."""

    @property
    def returncode(self) -> int | None:
        """Return the exit code as `subprocess` has it; None while the process runs."""

    @property
    def stderr(self) -> asyncio.StreamReader:
        """Return the stream of what the process writes to its stderr."""

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit code."""

    def kill(self) -> None:
        """End the process now. Nothing happens if it has ended."""


class SpawnedProcess:
    """A process of the operating system."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None, "the process was started with a pipe there"
        self._process = process
        self.pid = process.pid
        self.stderr = process.stderr
        self.wait = process.wait

    @property
    def returncode(self) -> int | None:
        """Return the exit code as `subprocess` has it; None while the process runs."""
        return self._process.returncode

    def kill(self) -> None:
        """End the process now. Nothing happens if it has ended.

        Not through the process object: it may reap the child before its watcher does, and the true
        exit status would be lost.
        """
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


async def spawn(
    command: Sequence[str],
    fd: int,
    env: Mapping[str, str] = NO_VARIABLES,
    blas: ChildBlas = OWN_BLAS,
) -> SpawnedProcess:
    """Start a child that inherits this end of its pipe. Raises OSError if the system refuses one.

    `env` are variables of the child's model.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        "--fd",
        str(fd),
        pass_fds=(fd,),
        stdin=asyncio.subprocess.DEVNULL,
        # The front's own stdout may be a pipe that is not read; a child would wait for it for ever.
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(env, blas),
        # ctrl-C in a terminal is the front's to answer.
        start_new_session=True,
    )
    return SpawnedProcess(process)


async def spawn_keeper(
    command: Sequence[str],
    fd: int,
    env: Mapping[str, str] = NO_VARIABLES,
    blas: ChildBlas = OWN_BLAS,
) -> SpawnedProcess:
    """Start the keeper of a rank on this host, whose environment is that of the rank.

    Raises OSError if the system refuses a process. `env` are variables of the rank's model.
    """
    return await _spawn_on_pipe(command, fd, _environment(env, blas))


async def spawn_runner(
    command: Sequence[str],
    fd: int,
    _env: Mapping[str, str] = NO_VARIABLES,
    _blas: ChildBlas = OWN_BLAS,
) -> SpawnedProcess:
    """Start the command that runs a keeper on another host, in the front's own environment.

    ssh needs the variables of its agent. The keeper itself makes the environment of its rank.
    Raises OSError if the system refuses a process.
    """
    return await _spawn_on_pipe(command, fd, None)


async def _spawn_on_pipe(
    command: Sequence[str], fd: int, environ: Mapping[str, str] | None
) -> SpawnedProcess:
    """Start a process whose standard input and output is this end of a pipe."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=fd,
        stdout=fd,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )
    return SpawnedProcess(process)


def rank_environment(of_model: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a rank on the host of this keeper, without secrets."""
    return _environment(of_model, OWN_BLAS)


def _environment(of_model: Mapping[str, str], blas: ChildBlas) -> dict[str, str]:
    """Return the front's own variables without secrets, overridden by the model's."""
    inherited = CHILD_DEFAULTS | without_secrets(os.environ)
    own = CHILD_ENVIRONMENT | {"TMPDIR": str(scratch_folder())}
    return blas.with_preload(inherited, of_model) | own


def describe_exit(code: int) -> str:
    """Return an exit code in words; a negative code is a signal's number."""
    if code >= 0:
        return f"exit status {code}"
    return f"killed by {signal_name(code)}"


def signal_name(code: int) -> str | None:
    """Return the name of the signal in an exit code; None if the process ended by itself."""
    if code >= 0:
        return None
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
