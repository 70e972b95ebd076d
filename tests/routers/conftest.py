"""The table of routers, printed at the end of the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.clients.prefixes import INSTALL_DEADLINE
from tests.routers.table import Table

HERE: Final = Path(__file__).parent
TABLE: Final = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the table."""
    config.stash[TABLE] = Table()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests, and let the first test of a router take as long as installing takes."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.routers)
            item.add_marker(pytest.mark.timeout(INSTALL_DEADLINE + 600))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table, and write the table where MLX_WORKER_ROUTERS_TABLE says."""
    table = config.stash[TABLE]
    if not table:
        return
    terminalreporter.section("routers in front of two nodes")
    for line in table.lines():
        terminalreporter.write_line(line)
    if named := os.environ.get("MLX_WORKER_ROUTERS_TABLE"):
        Path(named).write_text("\n".join(table.lines()) + "\n")


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    return pytestconfig.stash[TABLE]


@pytest.fixture(scope="session")
def wanted() -> str:
    """Return "available", or "all" if a router that cannot be installed is a failure."""
    return os.environ.get("MLX_WORKER_ROUTERS", "available")
