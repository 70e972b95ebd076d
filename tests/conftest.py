"""What many tests share: their markers, the made models, and a node as a real process."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from aiohttp import web_app
from hypothesis import settings

from mlx_worker.kv_disk.place import FOLDER_VARIABLE
from mlx_worker.system.garbage import imports_kept
from tests.compiling import compile_share
from tests.markers import StartedProcesses, by_cost, markers_of
from tests.processes import RunningNode, running_node
from tests.rounds import rounds
from tests.scheduling import SharedNodeScheduling
from tests.supervisor_harness import WORKERS
from tests.synthetic_models import make_caller, make_nano, make_tiny

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling


# No node of any test finds the user's KV on disk: /dev/null is no folder. Processes inherit this. A
# test about KV on disk names a folder of its own by `[cache] path`.
os.environ[FOLDER_VARIABLE] = os.devnull

# How long an example may take says more of the machine than of the code.
settings.register_profile("any machine", deadline=None, max_examples=rounds(15, 100, 100))
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workers",
        choices=("memory", "process"),
        default="memory",
        help="where fake workers run that no test wants in a process: there is one answer",
    )


STARTED = StartedProcesses()


def pytest_configure(config: pytest.Config) -> None:
    WORKERS.in_processes = config.getoption("--workers") == "process"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    by_file = config.getoption("dist") == "loadfile"
    return SharedNodeScheduling(config, log) if by_file else None


def pytest_sessionstart() -> None:
    STARTED.watch()
    # A shell that starts the tests in the background has interrupts ignored; processes inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    for marker in markers_of(item.path):
        item.add_marker(marker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process has one left when others are done."""
    items.sort(key=lambda item: by_cost(item.path))


def starts_no_process(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a part of a test that starts a process, unless the test may."""
    before = len(STARTED.commands)
    result = yield
    started = STARTED.commands[before:]
    if started and not WORKERS.in_processes and item.get_closest_marker("process") is None:
        pytest.fail(f"started {started[0]}: the test needs the marker `process`", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from starts_no_process(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from starts_no_process(item))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without looking for garbage: thousands of them and all of MLX stay to the end.

    To search them again and again takes a tenth of the run.
    """
    with imports_kept():
        compile_share()
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Forget the applications that a test asked.

    aiohttp keeps the last 1,024 with all that they hold, and each loop that ends looks through all
    tasks that there are.
    """
    result = yield
    web_app._cached_build_middleware.cache_clear()
    return result


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano(tmp_path_factory.mktemp("models") / "nano")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reasons and calls tools."""
    return make_caller(tmp_path_factory.mktemp("models") / "caller")


@pytest.fixture(scope="session")
def node(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One real node with one real child; tests share it and leave it as it was."""
    with running_node(tmp_path_factory.mktemp("node"), {"tiny": tiny}) as running:
        running.wait_until_ready()
        yield running
