"""What many tests share: the made models, and a node as a real process."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from tests.processes import RunningNode, running_node
from tests.supervisor_harness import WORKERS
from tests.synthetic_models import make_nano, make_tiny

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workers",
        choices=("memory", "process"),
        default="memory",
        help="where fake workers run that no test wants in a process: there is one answer",
    )


def pytest_configure(config: pytest.Config) -> None:
    WORKERS.in_processes = config.getoption("--workers") == "process"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without looking for garbage, and never look through what they imported.

    Thousands of tests and all of MLX stay to the end; to search them again and again takes a tenth
    of the run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def node(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One real node with one real child; tests share it and leave it as it was."""
    with running_node(tmp_path_factory.mktemp("node"), {"tiny": tiny}) as running:
        running.wait_until_ready()
        yield running
