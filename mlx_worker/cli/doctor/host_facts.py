"""What a host says of itself to `mlx-worker doctor --hosts` on another: `rank --describe`.

The doctor writes one line of JSON, a `HostQuestion`, and reads two: `HostFacts` at once, then, when
all files are read, a digest of each. In between the doctor may connect to the host's address, and
gets back what it sends: so the network is measured that would carry the parts of a model. [front]
"""

from __future__ import annotations

import importlib.util
import platform
import select
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import psutil

from mlx_worker.errors import WorkerError, cause_of
from mlx_worker.models import folder_hash
from mlx_worker.models.store import default_models_dir, locate
from mlx_worker.service.subprocess_runner import run
from mlx_worker.system.package_code import child_code, digest_of

if TYPE_CHECKING:
    from mlx_worker.service.subprocess_runner import Run

ASK_MLX: Final = """
import importlib.metadata, json
import mlx.core as mx
print(json.dumps([
    importlib.metadata.version("mlx"),
    importlib.metadata.version("mlx-lm"),
    str(mx.default_device()),
    mx.distributed.is_available("jaccl"),
]))
"""
"""In a process of its own: the front must not load mlx, and mlx may end a process that loads it."""

VISIT_SECONDS: Final = 20.0
"""Seconds without a visitor, or without a byte of the visitor, that end the measurement."""

CHUNK: Final = 1 << 18
STDIN: Final = 0


class ModelCopy(msgspec.Struct, frozen=True):
    """Ask for a model's folder as a rank would look for the folder on its host."""

    path: str
    models_dir: str = ""


class HostQuestion(msgspec.Struct, frozen=True):
    """Ask a host for its facts. `address` is that at which other hosts reach the host."""

    address: str = ""
    models: list[ModelCopy] = []


class HostFacts(msgspec.Struct, frozen=True):
    """Tell what a host has; memory in bytes. `problem` is why mlx or the address is of no use.

    `versions` are those of the code that ranks compute with. At `port` of the address the host
    listens to be measured; 0: it does not.
    """

    versions: dict[str, str]
    python: str
    device: str
    has_jaccl: bool
    memory: int
    available: int
    port: int = 0
    problem: str = ""


class FolderFacts(msgspec.Struct, frozen=True):
    """Tell where a model's folder is and a digest of each file; or why there is none."""

    folder: str = ""
    files: dict[str, str] = {}
    problem: str = ""


def describe() -> None:
    """Answer the question on standard input. At the end of input the answer may be cut short."""
    line = sys.stdin.buffer.readline()
    question = msgspec.json.decode(line, type=HostQuestion) if line.strip() else HostQuestion()
    server, problem = _listening_at(question.address)
    _say(facts_of(run, server.getsockname()[1] if server else 0, problem))
    if server is not None:
        with server:
            _echo_to_one(server)
    _say([folder_facts(copy) for copy in question.models])


def facts_of(ask: Run, port: int = 0, problem: str = "") -> HostFacts:
    """Return the facts of this host."""
    memory = psutil.virtual_memory()
    ran = ask([sys.executable, "-P", "-c", ASK_MLX])
    mlx, mlx_lm, device, has_jaccl = "", "", "", False
    if ran.status == 0:
        mlx, mlx_lm, device, has_jaccl = msgspec.json.decode(ran.output.splitlines()[-1])
    else:
        problem = problem or f"mlx: {ran.output.strip().splitlines()[-1:] or ran.status}"
    versions = {"mlx-worker": child_code(), "mlx": mlx, "mlx-lm": f"{mlx_lm} ({_mlx_lm_digest()})"}
    python = platform.python_version()
    return HostFacts(
        versions, python, device, has_jaccl, memory.total, memory.available, port, problem
    )


def folder_facts(copy: ModelCopy) -> FolderFacts:
    """Return where a model's folder is on this host, and a digest of every byte of its files."""
    where = Path(copy.models_dir).expanduser() if copy.models_dir else default_models_dir()
    try:
        folder = locate(copy.path, where, Path.home())
        return FolderFacts(str(folder), folder_hash.whole(folder))
    except (WorkerError, OSError) as error:
        return FolderFacts(problem=cause_of(error))


def _mlx_lm_digest() -> str:
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        return "not installed"
    root = Path(next(iter(spec.submodule_search_locations)))
    return digest_of(root, sorted(root.rglob("*.py")))


def _listening_at(address: str) -> tuple[socket.socket | None, str]:
    if not address:
        return None, ""
    try:
        return socket.create_server((address, 0)), ""
    except OSError as error:
        return None, f"cannot listen at {address}: {error.strerror}"


def _echo_to_one(server: socket.socket) -> None:
    """Send back what the first visitor sends, until the visitor or the doctor leaves."""
    readable, _, _ = select.select([server.fileno(), STDIN], [], [], VISIT_SECONDS)
    if server.fileno() not in readable:
        return
    visitor, _ = server.accept()
    with visitor:
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        visitor.settimeout(VISIT_SECONDS)
        try:
            while data := visitor.recv(CHUNK):
                visitor.sendall(data)
        except OSError:
            return


def _say(answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
