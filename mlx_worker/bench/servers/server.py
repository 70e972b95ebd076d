"""A server that is started, loaded and stopped.

[bench]
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import psutil

from mlx_worker.bench.job import LoadJob
from mlx_worker.bench.processes import family
from mlx_worker.bench.scenarios.streams import Streams
from mlx_worker.bench.servers.module import run_module
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlx_worker.bench.sample import Sample
    from mlx_worker.bench.scenarios.catalog import AnyScenario

HOST: Final = "127.0.0.1"
START_DEADLINE: Final = 300.0
STOP_DEADLINE: Final = 20.0
LOOK_EVERY: Final = 0.005

WARM_UP = Streams(streams=32, requests=1, tokens=(16, 16))
"""The load before every measurement: no first batch is compared."""


@dataclass
class Server:
    """A server that answers. `started` are figures of its start."""

    host: str
    port: int
    models: tuple[str, ...]
    roles: Callable[[], dict[str, list[int]]]
    started: dict[str, float] = field(default_factory=dict)

    def measure(self, scenario: AnyScenario, seed: str, life: int = 0) -> Sample:
        """Put the load on the server, from a process of its own."""
        job = LoadJob(scenario, seed, self.host, self.port, self.models, self.roles(), life)
        sample = run_module("mlx_worker.bench.load", job)
        if scenario.fresh:
            sample.figures |= self.started
        return sample


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server((HOST, 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def started(
    command: Sequence[str],
    port: int,
    models: tuple[str, ...],
    roles: Callable[[int], dict[str, list[int]]],
) -> Iterator[Server]:
    """Run the command until the block ends. `roles` sorts the processes below its pid.

    Raises BenchmarkError with the end of its log when it does not serve.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with tempfile.NamedTemporaryFile(prefix="mlx-worker-bench-", suffix=".log") as log:
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603  (what the user asked to be measured)
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            figures = _until_it_serves(process, port, models, began, Path(log.name))
            yield Server(HOST, port, models, lambda: roles(process.pid), figures)
        finally:
            _stop(process)


def _until_it_serves(
    process: subprocess.Popen[bytes], port: int, models: tuple[str, ...], began: float, log: Path
) -> dict[str, float]:
    """Return the milliseconds from the start to listening, and to answers of all models."""
    conditions: dict[str, Callable[[], bool]] = {
        "listening": lambda: _listens(port),
        "ready": lambda: all(_answers(port, model) for model in models),
    }
    figures: dict[str, float] = {}
    for name, condition in conditions.items():
        while not condition():
            if process.poll() is not None or time.perf_counter() - began > START_DEADLINE:
                said = log.read_text(errors="replace").strip().splitlines()[-5:]
                raise BenchmarkError(f"{process.args!r} does not serve: " + "\n".join(said))
            time.sleep(LOOK_EVERY)
        figures[name] = 1000 * (time.perf_counter() - began)
    return figures


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
        return True
    return False


def _answers(port: int, model: str) -> bool:
    """Return True if the model writes one token."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"http://{HOST}:{port}/v1/chat/completions",
        data=msgspec.json.encode(body),
        headers={"Content-Type": "application/json"},
    )
    with contextlib.suppress(OSError):
        urllib.request.urlopen(request, timeout=START_DEADLINE).close()  # noqa: S310
        return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM; kill what is left at the deadline."""
    below = family(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_DEADLINE)
    for pid in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    process.wait()
