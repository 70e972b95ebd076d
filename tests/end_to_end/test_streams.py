"""A node whose standard streams are closed, full or not read: it serves, and its end is told."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import urllib.error
import urllib.request
from typing import IO, TYPE_CHECKING

import psutil
import pytest

from tests.processes import COMMAND, CONFIG, DEADLINE, config_text, eventually
from tests.rounds import variants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2</dev/null", "2>/dev/full"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def started(
    command: list[str], port: int, stderr: int | IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A node that answers on this port; what is left of it at the end is killed."""
    process = subprocess.Popen(command, stderr=stderr)
    family: list[psutil.Process] = []
    try:
        eventually(lambda: answers(port))
        yield process
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def answers(port: int, path: str = "/health/live") -> bool:
    with (
        contextlib.suppress(urllib.error.URLError, ConnectionError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE) as response,
    ):
        return bool(response.status == 200)
    return False


def configured(folder: Path, model: Path, port: int, extra: str = "", log: str = "") -> Path:
    file = folder / CONFIG
    text = config_text({"m": model}, extra=extra)
    file.write_text(text.replace("port = 0", f"port = {port}") + log)
    return file


def shell(redirections: str, file: Path) -> list[str]:
    words = " ".join([*COMMAND, "serve", "--config", str(file)])
    return ["/bin/sh", "-c", f"exec {words} {redirections}"]


@pytest.mark.full
@pytest.mark.parametrize("redirections", CLOSED)
def test_a_node_with_closed_streams_serves_and_so_do_its_children(
    redirections: str, nano: Path, tmp_path: Path
) -> None:
    port = free_port()
    file = configured(tmp_path, nano, port)
    with started(shell(redirections, file), port):
        eventually(lambda: answers(port, "/health/ready"))


@pytest.mark.parametrize("redirections", variants(CLOSED, ["2</dev/null"]))
def test_a_start_that_fails_with_closed_streams_ends_with_its_code(
    redirections: str, nano: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = configured(tmp_path, nano, port, "preload = false")
        ended = subprocess.run(shell(redirections, file), timeout=DEADLINE, check=False)
    assert ended.returncode == 69


@pytest.mark.parametrize("redirections", variants(CLOSED, ["2>/dev/full"]))
def test_a_wrong_configuration_with_closed_streams_ends_with_its_code(
    redirections: str, tmp_path: Path
) -> None:
    file = tmp_path / CONFIG
    file.write_text("nonsense")
    ended = subprocess.run(shell(redirections, file), timeout=DEADLINE, check=False)
    assert ended.returncode == 78


def filled(write_end: int) -> None:
    os.set_blocking(write_end, False)
    while select.select([], [write_end], [], 0)[1]:
        os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)


@pytest.mark.full
def test_a_stderr_that_is_not_read_holds_up_no_answer_and_no_exit(
    nano: Path, tmp_path: Path
) -> None:
    port = free_port()
    file = configured(tmp_path, nano, port, "preload = false")
    reader, writer = os.pipe()
    filled(writer)
    command = [*COMMAND, "serve", "--config", str(file)]
    with started(command, port, stderr=writer):
        assert all(answers(port) for _ in range(100))
    os.close(reader)
    os.close(writer)


@pytest.mark.full
def test_a_terminal_that_is_held_holds_up_no_answer_and_no_exit(nano: Path, tmp_path: Path) -> None:
    port = free_port()
    file = configured(tmp_path, nano, port, "preload = false")
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    command = [*COMMAND, "serve", "--config", str(file)]
    with started(command, port, stderr=slave):
        assert all(answers(port) for _ in range(100))
    os.close(slave)
    os.close(master)


@pytest.mark.full
def test_a_start_that_fails_while_stderr_is_not_read_ends_with_its_code(
    nano: Path, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    filled(writer)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = configured(tmp_path, nano, taken.getsockname()[1], "preload = false")
        command = [*COMMAND, "serve", "--config", str(file)]
        ended = subprocess.run(command, stderr=writer, timeout=DEADLINE, check=False)
        assert ended.returncode == 69
        file.write_text("nonsense")
        ended = subprocess.run(command, stderr=writer, timeout=DEADLINE, check=False)
        assert ended.returncode == 78
    os.close(reader)
    os.close(writer)


def test_a_start_that_fails_says_why_on_a_stderr_that_is_read_late(
    nano: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = configured(tmp_path, nano, port, "preload = false")
        command = [*COMMAND, "serve", "--config", str(file)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert process.wait(DEADLINE) == 69
            assert process.stderr is not None
            said = process.stderr.read().decode()
    assert said.splitlines()[-1].startswith("mlx-worker: cannot listen on 127.0.0.1")


@pytest.mark.parametrize("kind", variants(["fifo", "/dev/full"], ["fifo"]))
def test_a_log_file_that_takes_no_line_holds_up_nothing_and_is_counted(
    kind: str, nano: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    port = free_port()
    log = f'[log]\nfile = "{tmp_path / kind}"\n'
    file = configured(tmp_path, nano, port, "preload = false", log)
    with started([*COMMAND, "serve", "--config", str(file)], port):
        eventually(lambda: dropped_lines(port) > 0)


def dropped_lines(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as response:
        text = response.read().decode()
    (line,) = [
        item for item in text.splitlines() if item.startswith("mlx_worker_log_lines_dropped_total")
    ]
    return float(line.split()[1])


# --- limits ---------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("most", [160, 1000, 4095])
def test_children_start_under_a_low_hard_limit_of_open_files(
    most: int, nano: Path, tmp_path: Path
) -> None:
    port = free_port()
    file = configured(tmp_path, nano, port)
    words = " ".join([*COMMAND, "serve", "--config", str(file)])
    with (tmp_path / "log").open("wb") as log:
        limited = ["/bin/sh", "-c", f"ulimit -n {most}; exec {words}"]
        with started(limited, port, stderr=log):
            eventually(lambda: answers(port, "/health/ready"))
    assert f"at most {most} files" in (tmp_path / "log").read_text()
