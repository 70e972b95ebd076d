"""Work in a process of its own: its lines, its failures, and its end when nobody wants it."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from mlx_worker.errors import BadModelFolder, SourceUnavailable, StorageError, WorkerError
from mlx_worker.models.pull.command import run_module, run_to_exit_code
from mlx_worker.models.pull.lock import pull_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    with pull_lock(tmp_path, "model") as descriptor:
        yield descriptor


@pytest.fixture
def run(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Run Python source as a module in a process of its own; gives a coroutine."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")

    def start(source: str, on_line: Callable[[str], None] = print) -> object:
        (tmp_path / "made_module.py").write_text(source)
        return run_module(
            "made_module", "one", "two words", lock=lock, on_line=on_line, bad_data=BadModelFolder
        )

    return start


async def test_lines_of_stdout_arrive_in_order(run: Callable[..., asyncio.Future[None]]) -> None:
    lines: list[str] = []
    await run("import sys\nfor word in sys.argv[1:]: print(word)", lines.append)
    assert lines == ["one", "two words"]


@pytest.mark.parametrize(
    ("code", "error"),
    [(65, BadModelFolder), (69, SourceUnavailable), (73, StorageError), (1, WorkerError)],
)
async def test_a_failure_is_made_again_from_exit_code_and_last_line(
    code: int, error: type[WorkerError], run: Callable[..., asyncio.Future[None]]
) -> None:
    with pytest.raises(WorkerError, match=r"^the reason$") as caught:
        await run(f"import sys\nsys.stderr.write('noise\\nthe reason\\n\\n')\nsys.exit({code})")
    assert type(caught.value) is error


async def test_a_silent_failure_is_told_by_its_exit_code(
    run: Callable[..., asyncio.Future[None]],
) -> None:
    with pytest.raises(WorkerError, match="made_module ended with exit code 3"):
        await run("import sys\nsys.exit(3)")


async def test_a_crash_is_told_by_its_signal(run: Callable[..., asyncio.Future[None]]) -> None:
    with pytest.raises(BadModelFolder, match=r"was ended by SIGABRT: its input is damaged"):
        await run("import os\nos.abort()")


async def test_a_cancelled_child_is_gone_when_the_cancellation_is_through(
    run: Callable[..., asyncio.Future[None]],
) -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    source = "import os, signal\nprint(os.getpid())\nsignal.pause()"
    running = asyncio.ensure_future(run(source, lambda line: started.set_result(int(line))))
    pid = await started
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_orphan_keeps_the_lock_until_it_is_gone(
    tmp_path: Path, lock: int, run: Callable[..., asyncio.Future[None]]
) -> None:
    """Our descriptor goes, as it does when a pull is killed; its child still has the file."""
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(
        run("import signal\nprint()\nsignal.pause()", started.set_result)
    )
    await started
    standin = os.open(os.devnull, os.O_RDONLY)
    os.dup2(standin, lock)
    os.close(standin)
    with pytest.raises(StorageError, match="another pull of model"), pull_lock(tmp_path, "model"):
        pass
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pull_lock(tmp_path, "model"):
        pass


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with pull_lock(tmp_path, "model"):
        assert [path.name for path in tmp_path.iterdir()] == [".pulling-model.lock"]
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_the_door_one_at_a_time_gets_in(tmp_path: Path) -> None:
    """Each owner unlinks the file: nobody may hold one that newcomers no longer find."""
    inside: list[int] = []
    crowds: list[int] = []

    def push_in(me: int) -> None:
        for _ in range(200):
            with suppress(StorageError), pull_lock(tmp_path, "model"):
                inside.append(me)
                crowds.append(len(inside))
                inside.remove(me)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(push_in, range(4)))
    assert set(crowds) == {1}


def test_locks_of_two_models_do_not_meet(tmp_path: Path) -> None:
    with pull_lock(tmp_path, "one"), pull_lock(tmp_path, "two"):
        pass


def test_the_childs_half_says_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise StorageError("two\nlines")

    assert run_to_exit_code(fail) == StorageError.exit_code
    assert capsys.readouterr().err == "two lines\n"


def test_the_childs_half_ends_well_when_the_work_did() -> None:
    assert run_to_exit_code(lambda: None) == 0
