"""Two nodes, and a router in front of them that was started with what `router-config` wrote."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final, Protocol

from tests.clients.prefixes import PREFIXES, NotInstalled, installed
from tests.processes import COMMAND, DEADLINE, RunningNode, running_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MODEL: Final = "tiny"

KEY: Final = f"sk-{secrets.token_hex(32)}"
"""What LiteLLM's clients need; the other routers pass it on to nodes, which ask for no key."""

QUIET: Final = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_MASTER_KEY": KEY,
    "MLX_WORKER_API_KEY": "none",
}
"""Variables with which no router asks anybody but the nodes."""


class Router(Protocol):
    """Return the command that starts a router with the configuration in a file."""

    def __call__(self, file: Path) -> Sequence[str]: ...


def _script(file: Path) -> Sequence[str]:
    return ("sh", str(file))


def _litellm(file: Path) -> Sequence[str]:
    """Return the command that the first line of the file names."""
    first = file.read_text().partition("\n")[0].removeprefix("# ")
    return shlex.split(first.replace("FILE", str(file)))


def _haproxy(file: Path) -> Sequence[str]:
    return ("haproxy", "-db", "-f", str(file))


def _nginx(file: Path) -> Sequence[str]:
    folder = file.parent
    paths = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    main = folder / "nginx.conf"
    main.write_text(
        f"{user}events {{}}\npid {folder}/pid;\nerror_log stderr;\ndaemon off;\n"
        f"http {{\naccess_log off;\n{paths}\ninclude {file};\n}}\n"
    )
    return ("nginx", "-e", "stderr", "-c", str(main))


@dataclass(frozen=True, slots=True)
class Kind:
    """A router: its command, and the prefix where its packages are, or "" for Debian's own."""

    name: str
    command: Router
    prefix: str = ""
    header_prefix: str = ""
    """What the router writes in front of the headers of a node's response."""
    keeps_session: bool = True
    """True if the node sees the session that the client names."""

    def folder(self) -> str:
        """Return the folder of its program. Raises NotInstalled."""
        if self.prefix:
            return str(installed(self.prefix) / "bin")
        if shutil.which(self.name) is None:
            raise NotInstalled(f"there is no program {self.name}")
        return ""

    @property
    def version(self) -> str:
        """The version that is pinned, or that the machine has."""
        if self.prefix:
            return PREFIXES[self.prefix].version
        said = subprocess.run((self.name, "-v"), capture_output=True, text=True, check=True)
        words = (said.stdout + said.stderr).replace("/", " ").split()
        return next(word for word in words if word[0].isdigit()).partition("-")[0]


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("vllm-router", _script, "vllm-router"),
        Kind("sglang-router", _script, "sglang-router", keeps_session=False),
        Kind("smg", _script, "smg", keeps_session=False),
        Kind("litellm", _litellm, "litellm-proxy", header_prefix="llm_provider-"),
        Kind("nginx", _nginx),
        Kind("haproxy", _haproxy),
    )
}


@dataclass
class Node:
    """A node that starts and ends as often as a test wants, at one port."""

    folder: Path
    model: Path
    port: int = 0
    running: RunningNode | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def now(self) -> RunningNode:
        """The node while it runs."""
        assert self.running is not None, "the node was not started"
        return self.running

    def launch(self) -> None:
        """Start the node, and wait until it listens."""
        self.running = self._stack.enter_context(
            running_node(self.folder, {MODEL: self.model}, port=self.port)
        )
        self.port = int(self.running.url.rpartition(":")[2])

    def start(self) -> None:
        """Start the node, and wait until it serves."""
        self.launch()
        self.now.wait_until_ready()

    def stop(self) -> None:
        """End the node as an operator does: it refuses new work and ends what runs."""
        assert self.now.stop() == 0
        self._stack.close()
        self.running = None

    def kill(self) -> None:
        """Kill the node's front at once; its child ends with it."""
        process = self.now.process
        process.kill()
        process.wait(DEADLINE)
        self.running = None

    def close(self) -> None:
        """End whatever is left of it."""
        self._stack.close()

    def requests(self) -> int:
        """Return how many requests this process of the node had."""
        total: int = self.now.ask("/health").json["metrics"]["totalRequests"]
        return total


@dataclass(frozen=True, slots=True)
class RunningRouter:
    """A router's process, its address and its log."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two nodes and the address of the router in front of them."""

    nodes: tuple[Node, Node]
    url: str
    log: Path

    def said(self) -> str:
        """Return the last lines of the router's log."""
        return "the router said:\n" + self.log.read_text()[-3000:]


def free_port() -> int:
    """Return a port on which no program listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def written_config(router: str, urls: Sequence[str], listen: str = "8080") -> str:
    """Return what `mlx-worker router-config` prints for a router."""
    command = (*COMMAND, "router-config", "--for", router, "--listen", listen, *urls)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def fleet(kind: Kind, folder: Path, model: Path) -> Iterator[Fleet]:
    """Start two nodes and the router. Raises NotInstalled."""
    kind.folder()  # before any node is started
    with two_nodes(folder, model) as nodes:
        urls = [node.now.url for node in nodes]
        with started_router(kind, folder, urls) as router:
            yield Fleet(nodes, router.url, router.log)


@contextlib.contextmanager
def two_nodes(folder: Path, model: Path) -> Iterator[tuple[Node, Node]]:
    """Start two nodes with one model, and end what is left of them."""
    nodes = (_node(folder / "one", model), _node(folder / "two", model))
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.now.wait_until_ready()
        yield nodes
    finally:
        for node in nodes:
            node.close()


@contextlib.contextmanager
def started_router(kind: Kind, folder: Path, urls: Sequence[str]) -> Iterator[RunningRouter]:
    """Start a router with its configuration for these nodes. Raises NotInstalled."""
    listen = f"127.0.0.1:{free_port()}"
    file, log = folder / "router.conf", folder / "router.log"
    file.write_text(written_config(kind.name, urls, listen))
    path = os.pathsep.join(filter(None, (kind.folder(), os.environ["PATH"])))
    environment = {**os.environ, **QUIET, "PATH": path}
    with (
        log.open("w") as out,
        _started(kind.command(file), environment, folder, out) as process,
    ):
        yield RunningRouter(process, f"http://{listen}", log)


def _node(folder: Path, model: Path) -> Node:
    folder.mkdir()
    return Node(folder, model)


@contextlib.contextmanager
def _started(
    command: Sequence[str], environment: dict[str, str], folder: Path, out: IO[str]
) -> Iterator[subprocess.Popen[bytes]]:
    program = shutil.which(command[0], path=environment["PATH"])
    assert program is not None, command[0]
    process = subprocess.Popen(
        (program, *command[1:]),
        env=environment,
        cwd=folder,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(DEADLINE)
