"""A node as a target: a node started for the measurement, or a running one.

[bench]
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import urlopen

import msgspec
import psutil

from mlx_worker.bench.processes import family
from mlx_worker.bench.servers.server import HOST, Server, free_port, started
from mlx_worker.bench.servers.target import CACHE_BYTES, ROWS
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlx_worker.bench.scenarios.scenario import Kind
    from mlx_worker.config.schema.model_types import Speculation

BY_SPECULATION: Mapping[Speculation, tuple[str, Kind]] = {
    "auto": ("node", "node"),
    "on": ("node with drafts", "drafts"),
    "off": ("node without drafts", "no drafts"),
}
QUEUE = 1024
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEALTH_TIMEOUT = 10.0


class StartedNode:
    """`mlx-worker serve`, on a free port: as it is, or with one thing that scenarios are about.

    That is a spare child, KV on disk, or a setting of `speculation`. A spare that is prepared takes
    a core for a second or two, and records are written beside the load, so only what a spare or the
    disk changes is measured beside them.
    """

    def __init__(
        self, *, spares: int = 0, has_disk: bool = False, speculation: Speculation = "auto"
    ) -> None:
        self.name, self.kind = BY_SPECULATION[speculation]
        if has_disk:
            self.name, self.kind = "node with disk", "disk"
        elif spares:
            self.name, self.kind = "node with standby", "standby"
        self._spares = spares
        self._speculation = speculation

    @contextlib.contextmanager
    def opened(self, models: Sequence[Path], kept: Path | None = None) -> Iterator[Server]:
        """Start a node whose models are called bench-0, bench-1, …."""
        names = tuple(f"bench-{i}" for i in range(len(models)))
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="mlx-worker-bench-") as folder:
            file = Path(folder) / "bench.toml"
            served = dict(zip(names, models, strict=True))
            disk = (kept or Path(folder)) / "kv" if self.kind == "disk" else None
            file.write_text(_configuration(served, port, self._spares, disk, self._speculation))
            command = [sys.executable, "-m", "mlx_worker", "serve", "--config", str(file)]
            with started(command, port, names, _roles) as server:
                yield server


class RunningNode:
    """A node that its user has started, and that is left as it was."""

    name = "node"
    kind: Kind = "running"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise BenchmarkError(f"{url}: a node's address begins with http://", param="url")
        self._url = url.rstrip("/")
        self._host = parts.hostname
        self._port = parts.port or 80

    @contextlib.contextmanager
    def opened(
        self,
        models: Sequence[Path],  # noqa: ARG002  (the node has its own)
        kept: Path | None = None,  # noqa: ARG002  (and its own folders)
    ) -> Iterator[Server]:
        """Measure the first model of the node."""
        try:
            with urlopen(f"{self._url}/health", timeout=HEALTH_TIMEOUT) as answer:  # noqa: S310
                served = msgspec.json.decode(answer.read())["models"]
        except (OSError, KeyError, msgspec.DecodeError) as error:
            raise BenchmarkError(f"{self._url}: no node answers there: {error}") from error
        yield Server(self._host, self._port, tuple(served), lambda: self._roles(served))

    def _roles(self, served: dict[str, dict[str, int | None]]) -> dict[str, list[int]]:
        """Return the node's processes if they are on this machine."""
        children = [pid for model in served.values() if (pid := model["pid"])]
        if self._host not in LOOPBACK or not children:
            return {}
        try:
            front = psutil.Process(children[0]).ppid()
        except psutil.NoSuchProcess:
            return {}
        return {"front": [front], "child": children}


def _roles(pid: int) -> dict[str, list[int]]:
    front, *children = family(pid)
    return {"front": [front], "child": children}


def _configuration(
    models: dict[str, Path], port: int, spares: int, disk: Path | None, speculation: Speculation
) -> str:
    server = f'[server]\nhost = "{HOST}"\nport = {port}\n'
    tables = [
        f'[[models]]\nid = "{name}"\npath = {msgspec.json.encode(str(folder.resolve())).decode()}\n'
        f"max_concurrency = {ROWS}\nmax_queue = {QUEUE}\ncache_bytes = {CACHE_BYTES}\n"
        f'speculation = "{speculation}"\n'
        for name, folder in models.items()
    ]
    # Children that are killed on purpose come back at once, and are not given up. A node that can
    # serve nothing is not waited for.
    supervisor = (
        f"[supervisor]\nstandby = {spares}\nbackoff_initial = 0\nmax_restarts = 100000\n"
        "drain_timeout = 0\nexit_when_failed_for = 1\n"
    )
    # What an earlier run has written would be read in the next one, and the user's own folder is
    # not for measurements.
    cache = "[cache]\ndisk = false\n" if disk is None else _cache_section(disk)
    # The engine alone and other servers have mlx's own BLAS too.
    cpu = '[cpu]\nblas = "bundled"\n'
    return "\n".join([server, supervisor, cache, cpu, *tables])


def _cache_section(folder: Path) -> str:
    """Return bounds that no measurement comes near, on a volume that may be nearly full."""
    path = msgspec.json.encode(str(folder.resolve())).decode()
    return (
        f"[cache]\ndisk = true\npath = {path}\ndisk_cache_bytes = {CACHE_BYTES}\n"
        f"disk_writes_per_day = {1000 * CACHE_BYTES}\ndisk_free_min = 1000000\n"
    )
