"""The table of routers, printed at the end of the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.routers.table import Table

TABLE: Final = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the table."""
    config.stash[TABLE] = Table()


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
