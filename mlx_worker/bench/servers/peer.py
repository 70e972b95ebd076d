"""Other servers of the same weights, each with as many rows and as large a cache.

[bench]
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from typing import TYPE_CHECKING, TypeAlias

from mlx_worker.bench.processes import family
from mlx_worker.bench.servers.server import HOST, free_port, started
from mlx_worker.bench.servers.target import CACHE_BYTES, READERS, ROWS
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlx_worker.bench.scenarios.scenario import Kind
    from mlx_worker.bench.servers.server import Server

Command: TypeAlias = "Callable[[Path, int], list[str]]"

CACHED_PROMPTS = 1000
MODEL = "default_model"
"""The name that mlx_lm.server has for the model it was started with."""


class Peer:
    """One that is started on the same model's folder."""

    kind: Kind = "peer"

    def __init__(self, name: str) -> None:
        self.name = name
        self._command = PEERS[name]

    @contextlib.contextmanager
    def opened(
        self,
        models: Sequence[Path],
        kept: Path | None = None,  # noqa: ARG002  (no peer has a folder for what it keeps)
    ) -> Iterator[Server]:
        """Start the server on the first of these models."""
        port = free_port()
        command = self._command(models[0].resolve(), port)
        with started(command, port, (MODEL,), lambda pid: {"server": family(pid)}) as server:
            yield server


def _mlx_lm_server(folder: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlx_lm", "server", "--model", str(folder)),
        *("--host", HOST, "--port", str(port), "--log-level", "WARNING"),
        *("--decode-concurrency", str(ROWS), "--prompt-concurrency", str(READERS)),
        *("--prompt-cache-size", str(CACHED_PROMPTS), "--prompt-cache-bytes", str(CACHE_BYTES)),
    ]


def _vllm_mlx(folder: Path, port: int) -> list[str]:
    command = shutil.which("vllm-mlx")
    if command is None:
        raise BenchmarkError(
            "there is no command vllm-mlx here: pip install vllm-mlx", param="peer"
        )
    return [
        *(command, "serve", str(folder), "--served-model-name", MODEL, "--offline"),
        *("--host", HOST, "--port", str(port), "--continuous-batching"),
        *("--max-num-seqs", str(ROWS), "--completion-batch-size", str(ROWS)),
        *("--prefill-batch-size", str(READERS), "--cache-memory-mb", str(CACHE_BYTES >> 20)),
    ]


PEERS: Mapping[str, Command] = {"mlx_lm.server": _mlx_lm_server, "vllm-mlx": _vllm_mlx}
