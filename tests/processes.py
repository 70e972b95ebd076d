"""A node as its users have it: the installed command, a configuration file, HTTP.

Everything waits for something to happen, with a deadline; nothing sleeps to wait for time.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

DEADLINE = 60.0
"""Seconds: far beyond what anything takes; its passing is a failure, not a measure."""

CONFIG = "mlx-worker.toml"
COMMAND = (sys.executable, "-m", "mlx_worker")

NO_DISK = "disk = false"
"""The section `[cache]` of a node that keeps no KV on disk."""

MEASURED = "COVERAGE_PROCESS_CONFIG"
"""The variable by which processes are measured; on a small disk there is no room for figures."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RunningNode:
    """A front process, its base URL and its log."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: list[str]) -> None:
        self.process = process
        self.url = url
        self.log = log

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: float = DEADLINE,
    ) -> Answer:
        """One request; `body` is sent as JSON unless it is bytes already.

        `deadline` is in seconds: a real model beside other tests is slow, and not hung.
        """
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers=dict(headers or {})
        )
        try:
            with urllib.request.urlopen(request, timeout=deadline) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def model(self, name: str) -> dict[str, Any]:
        """A model's entry in /health."""
        entry: dict[str, Any] = self.ask("/health").json["models"][name]
        return entry

    def child(self, name: str) -> psutil.Process:
        """The process of a model."""
        return psutil.Process(self.model(name)["pid"])

    def children(self) -> list[psutil.Process]:
        """The processes of its models."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_until_ready(self) -> None:
        """Every preloaded model serves."""
        eventually(lambda: self.ask("/health").json["status"] == "healthy")

    def stop(self) -> int:
        """SIGTERM, then its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Hold a process by SIGSTOP: what it is asked meanwhile is under way, and not done."""
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def eventually(condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
    """Ask again until it is so. For facts of other processes, which send no event here."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not so within {deadline} s: {condition}")
        time.sleep(0.01)


def has_ended(process: psutil.Process) -> bool:
    """It runs no more. A zombie has ended too: an orphan's new parent reaps when it likes."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def config_text(
    models: Mapping[str, Path],
    *,
    server: str = "",
    supervisor: str = "",
    extra: str | Mapping[str, str] = "",
    spares: int = 0,
    port: int = 0,
    blas: str = "bundled",
    cache: str = NO_DISK,
) -> str:
    """A configuration that serves these folders on a free port or `port`; the first is the default.

    `extra` is what each model's section has besides, or what that of each name has. A spare child
    imports all of MLX: a node has `spares` only where a test is about them. So is KV on disk, which
    needs a `cache` with a `path` of the test's own. Answers are compared with those of the tests'
    own process, which has mlx's own BLAS: so has a node, unless a test is about another `blas`.
    """
    text = f'[server]\nhost = "127.0.0.1"\nport = {port}\n{server}\n'
    text += f"[supervisor]\nstandby = {spares}\n{supervisor}\n"
    text += f'[cache]\n{cache}\n[cpu]\nblas = "{blas}"\n'
    for i, (name, folder) in enumerate(models.items()):
        default = "true" if i == 0 else "false"
        more = extra if isinstance(extra, str) else extra[name]
        text += f'[[models]]\nid = "{name}"\npath = "{folder}"\ndefault = {default}\n{more}\n'
    return text


@contextlib.contextmanager
def running_node(
    folder: Path,
    models: Mapping[str, Path],
    *,
    server: str = "",
    supervisor: str = "",
    extra: str | Mapping[str, str] = "",
    spares: int = 0,
    port: int = 0,
    blas: str = "bundled",
    cache: str = NO_DISK,
    command: Sequence[str] = COMMAND,
    text: str = "",
) -> Iterator[RunningNode]:
    """A node from a configuration file; whatever is left of it at the end is killed.

    `text` is what the file has in place of `config_text`.
    """
    file = folder / CONFIG
    made = config_text(
        models,
        server=server,
        supervisor=supervisor,
        extra=extra,
        spares=spares,
        port=port,
        blas=blas,
        cache=cache,
    )
    file.write_text(text or made)
    process = subprocess.Popen(
        [*command, "serve", "--config", str(file)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    family: list[psutil.Process] = []
    try:
        log: list[str] = []
        url = _read_url(process.stderr, log)
        with _reading(process.stderr, log):
            running = RunningNode(process, url, log)
            try:
                yield running
            finally:
                if process.poll() is None:
                    family = running.children()
                    running.stop()
    finally:
        process.kill()
        process.wait()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.stderr.close()


def _read_url(stderr: IO[str], log: list[str]) -> str:
    for line in stderr:
        log.append(line)
        if found := re.search(r"listening on (https?://[\w.:\[\]-]+)", line):
            return found[1]
    raise AssertionError("the node did not listen:\n" + "".join(log))


@contextlib.contextmanager
def _reading(stderr: IO[str], log: list[str]) -> Iterator[None]:
    """Keep the pipe empty, or the node would block on its log."""
    import threading  # noqa: PLC0415

    thread = threading.Thread(target=lambda: log.extend(stderr), daemon=True)
    thread.start()
    yield
    thread.join(DEADLINE)
