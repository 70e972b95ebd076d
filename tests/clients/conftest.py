"""A node for the clients, their seats, and the table of what came of it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

from mlx_worker.cli.client_blocks.client import ClientTarget
from tests.clients.prefixes import INSTALL_DEADLINE, NotInstalled, installed
from tests.clients.seat import KEY, Seat
from tests.clients.table import Table
from tests.clients.talking_model import make_talker
from tests.clients.turns import ReadAgain
from tests.processes import RunningNode, eventually, running_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE: Final = Path(__file__).parent
NODE: Final = (sys.executable, str(HERE / "talking_node.py"))
TABLE: Final = pytest.StashKey[Table]()
READ_AGAIN: Final = pytest.StashKey[ReadAgain]()
MODELS: Final[Mapping[str, tuple[int, str]]] = {
    "talker": (128_000, "lenient"),
    "talker-32k": (32_000, "lenient"),
    "talker-16k": (16_000, "lenient"),
    "system-first": (128_000, "system first"),
    "alternating": (128_000, "alternating"),
}
"""Context length and template of each model."""


def pytest_configure(config: pytest.Config) -> None:
    """Begin the table."""
    config.stash[TABLE] = Table()
    config.stash[READ_AGAIN] = ReadAgain()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the first test of a client take as long as installing takes."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(INSTALL_DEADLINE + 600))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, and write the table where that is asked for."""
    table = config.stash[TABLE]
    if table:
        terminalreporter.section("clients")
        for line in table.lines():
            terminalreporter.write_line(line)
        table.write()
    loops = config.stash[READ_AGAIN]
    if loops:
        terminalreporter.section("tokens of prompts that a loop read again, by turn")
        for line in loops.lines():
            terminalreporter.write_line(line)
        loops.write()


@dataclass(frozen=True, slots=True)
class Served:
    """The node of the clients, and the folders of its models."""

    running: RunningNode
    folders: Mapping[str, Path]


@pytest.fixture(scope="session")
def wanted() -> str:
    """Return "available", or "all" if a client that cannot be installed is a failure."""
    return os.environ.get("MLX_WORKER_CLIENTS", "available")


@pytest.fixture(scope="session")
def served(wanted: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("clients-node")
    folders = {
        name: make_talker(folder / name, context=context, template=template)
        for name, (context, template) in MODELS.items()
    }
    keys = folder / "keys"
    keys.write_text(f"clients:{KEY}\n")
    keys.chmod(0o600)
    setting = f'api_keys_file = "{keys}"'
    with running_node(folder, folders, server=setting, command=NODE) as running:
        shown = {"Authorization": f"Bearer {KEY}"}
        eventually(lambda: running.ask("/health", headers=shown).json.get("status") == "healthy")
        yield Served(running, folders)


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    return pytestconfig.stash[TABLE]


@pytest.fixture(scope="session")
def read_again(pytestconfig: pytest.Config) -> ReadAgain:
    return pytestconfig.stash[READ_AGAIN]


class Seats(Protocol):
    """Give a client its seat."""

    def __call__(self, name: str, *, model: str = "talker", label: str | None = None) -> Seat: ...


@pytest.fixture
def seat_of(wanted: str, served: Served, table: Table, tmp_path: Path) -> Seats:
    """Return what installs a client and seats the client in a home of its own."""

    def seat(name: str, *, model: str = "talker", label: str | None = None) -> Seat:
        try:
            prefix = installed(name)
        except NotInstalled as error:
            table.skipped(label or name, "not installed")
            if wanted == "all":
                raise
            pytest.skip(f"{name} cannot be installed here: {error}")
        target = ClientTarget(served.running.url, model, MODELS[model][0])
        extra = {"MODEL_FOLDER": str(served.folders[model])}
        return Seat(name, prefix, tmp_path, target, extra)

    return seat
