"""Lines reach a pipe, a terminal or a file in order, and no thread that logs waits for them."""

from __future__ import annotations

import json
import logging
import os
import pty
import select
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING

import pytest

from mlx_worker import logs
from mlx_worker.config.schema import LogConfig
from mlx_worker.config.sizes import Size
from mlx_worker.log_writer import (
    Descriptor,
    Dropped,
    LogWriter,
    PipeDescriptor,
    RotatingFile,
    write_within,
)
from tests.processes import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlx_worker.log_writer import Sink

LINES = [f"line {number} {'x' * 90}" for number in range(5_000)]
"""Half a megabyte: more than a pipe or a terminal holds."""

LIMIT = 20_000
"""Bytes: some 200 of them."""


def notice(lines: int) -> str:
    return f"dropped {lines}"


def writer_to(sink: Sink, dropped: Dropped) -> LogWriter:
    return LogWriter(sink, notice, dropped, LIMIT)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def read_until_idle(fd: int, writer: LogWriter) -> list[str]:
    """What the writer had to write, once all of it has been read."""
    read = b""
    idle = threading.Event()

    def wait() -> None:
        writer.flush(DEADLINE)
        idle.set()

    threading.Thread(target=wait).start()
    while not idle.is_set() or select.select([fd], [], [], 0)[0]:
        if select.select([fd], [], [], 0.01)[0]:
            read += os.read(fd, 1 << 16)
    return read.decode().replace("\r\n", "\n").splitlines()


def assert_in_order_with_a_notice_for_each_gap(read: list[str], dropped: Dropped) -> None:
    """Each line that is missing is counted by the notice that stands in its place."""
    position = 0
    for line in read:
        if line.startswith("dropped "):
            position += int(line.removeprefix("dropped "))
        else:
            assert line == LINES[position]
            position += 1
    assert position == len(LINES)
    assert dropped.total == len(LINES) - sum(line in set(LINES) for line in read) > 0


@pytest.mark.parametrize("kind", [Descriptor, PipeDescriptor])
def test_a_pipe_that_is_not_read_drops_lines_and_says_how_many(
    pipe: tuple[int, int], kind: type[Descriptor]
) -> None:
    reader, end = pipe
    dropped = Dropped()
    # A queue that the pipe cannot take whole, so that the lines wait whichever thread runs first.
    writer = LogWriter(kind(end), notice, dropped, 10 * LIMIT)
    for line in LINES:
        writer.put(line)
    assert not writer.flush(0)
    assert_in_order_with_a_notice_for_each_gap(read_until_idle(reader, writer), dropped)
    writer.put("flows")
    assert read_until_idle(reader, writer) == ["flows"]


def test_a_pipe_that_another_process_made_non_blocking_loses_no_line(
    pipe: tuple[int, int],
) -> None:
    reader, end = pipe
    os.set_blocking(end, False)
    dropped = Dropped()
    writer = LogWriter(Descriptor(end), notice, dropped)
    for line in LINES:
        writer.put(line)
    assert read_until_idle(reader, writer) == LINES
    assert dropped.total == 0


def test_a_terminal_that_is_held_drops_lines_and_says_how_many() -> None:
    master, slave = pty.openpty()
    dropped = Dropped()
    writer = writer_to(Descriptor(slave), dropped)
    termios.tcflow(slave, termios.TCOOFF)  # what Ctrl-S does
    for line in LINES:
        writer.put(line)
    assert not writer.flush(0)
    termios.tcflow(slave, termios.TCOON)
    assert_in_order_with_a_notice_for_each_gap(read_until_idle(master, writer), dropped)
    os.close(master)


def test_a_full_disk_drops_each_line_and_ends_no_thread() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    dropped = Dropped()
    writer = LogWriter(Descriptor(full), notice, dropped)
    for line in LINES:
        writer.put(line)
    assert writer.flush(DEADLINE)
    assert dropped.total == len(LINES)
    os.close(full)


def test_a_closed_pipe_drops_each_line(pipe: tuple[int, int]) -> None:
    _, end = pipe
    dropped = Dropped()
    other, closed = os.pipe()
    os.close(other)
    writer = LogWriter(PipeDescriptor(closed), notice, dropped)
    writer.put("to no reader")
    assert writer.flush(DEADLINE)
    assert dropped.total == 1
    os.close(closed)
    os.close(end)


class Disk:
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.written = b""

    def write(self, line: bytes) -> None:
        if len(self.written) + len(line) > self.room:
            raise OSError("no space left on device")
        self.written += line

    def write_if_free(self, _line: bytes) -> bool:
        return False


def test_a_disk_with_room_again_is_told_how_many_lines_are_missing() -> None:
    disk, dropped = Disk(room=4), Dropped()
    writer = LogWriter(disk, notice, dropped)
    for line in ("one", "two", "three"):
        writer.put(line)
    assert writer.flush(DEADLINE)
    disk.room = 1000
    writer.put("four")
    assert writer.flush(DEADLINE)
    assert disk.written == b"one\nfour\ndropped 2\n"


def test_a_childs_line_is_in_the_pipe_when_the_call_returns(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    writer = LogWriter(PipeDescriptor(end), notice, Dropped())
    writer.put("the last line before an abort")
    assert select.select([reader], [], [], 0)[0]
    os.close(end)


# --- files ----------------------------------------------------------------------------------


def test_a_fifo_without_a_reader_drops_lines_until_it_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "node.log"
    os.mkfifo(fifo)
    dropped = Dropped()
    writer = LogWriter(RotatingFile(fifo, max_bytes=10, keep=1), notice, dropped)
    writer.put("unread")
    assert writer.flush(DEADLINE)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer.put("read")
    assert writer.flush(DEADLINE)
    assert os.read(reader, 100) == b"read\ndropped 1\n"
    os.close(reader)
    assert list(tmp_path.iterdir()) == [fifo]


def test_a_file_is_appended_to_and_begins_anew_at_its_size(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    file.write_text("before\n")
    writer = LogWriter(RotatingFile(file, max_bytes=14, keep=2), notice, Dropped())
    for line in ("first", "second", "third", "a line longer than the file may be", "last"):
        writer.put(line)
    assert writer.flush(DEADLINE)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {
        "node.log": "last\n",
        "node.log.1": "a line longer than the file may be\n",
        "node.log.2": "second\nthird\n",
    }


def test_a_file_that_cannot_be_renamed_is_written_on(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    (tmp_path / "node.log.1").mkdir()
    writer = LogWriter(RotatingFile(file, max_bytes=10, keep=1), notice, Dropped())
    for line in ("first", "second", "third"):
        writer.put(line)
    assert writer.flush(DEADLINE)
    assert file.read_text() == "first\nsecond\nthird\n"


@pytest.mark.parametrize("place", ["/dev/full", "fifo"])
def test_a_node_starts_with_a_log_that_takes_no_line(
    tmp_path: Path, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    root, ours = logging.getLogger(), logging.getLogger(logs.OWN_LOGGER)
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    root.handlers[:] = []
    try:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        before = logs.DROPPED.total
        logs.set_up(LogConfig(file=tmp_path / place, max_bytes=Size(4096)))
        for number in range(100):
            logging.getLogger("mlx_worker.test").info("line %d", number)
        misfit = "%d %d"
        logging.getLogger("mlx_worker.test").info(misfit, "one argument, and no number")
        logs.flush()
        assert logs.DROPPED.total - before == 101
        assert capfd.readouterr().err == ""
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        ours.setLevel(our_level)


def test_the_notice_is_a_line_like_any_other(tmp_path: Path) -> None:
    handler = logs.QueueingHandler(Disk(1000), logs.JsonLines())
    said = json.loads(handler._notice(7))
    assert (said["event"], said["count"], said["level"]) == ("log lines dropped", 7, "warning")


def test_a_last_line_is_written_or_given_up(pipe: tuple[int, int]) -> None:
    reader, end = pipe
    write_within(end, "mlx-worker: no such model", DEADLINE)
    assert os.read(reader, 100) == b"mlx-worker: no such model\n"
    os.set_blocking(end, False)
    while select.select([], [end], [], 0)[1]:
        os.write(end, b"x" * 4096)
    os.set_blocking(end, True)
    write_within(end, "unread", 0)  # returns


# --- a child and its front ------------------------------------------------------------------


TALKATIVE = """
import logging, sys
from mlx_worker.logs import DROPPED, Entry, set_up_child
set_up_child()
for number in range(100_000):
    logging.getLogger("mlx_worker.child").debug(Entry("said", number=number))
print(DROPPED.total > 0)
"""


@pytest.mark.full
@pytest.mark.process
def test_a_child_whose_front_is_stopped_goes_on_and_ends(pipe: tuple[int, int]) -> None:
    _, end = pipe
    done = subprocess.run(
        [sys.executable, "-c", TALKATIVE],
        stdout=subprocess.PIPE,
        stderr=end,
        timeout=DEADLINE,
        check=False,
    )
    os.close(end)
    assert (done.returncode, done.stdout) == (0, b"True\n")
