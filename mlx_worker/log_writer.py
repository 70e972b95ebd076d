"""Write log lines on a thread of its own, so that a stalled reader or disk blocks no other thread.

A write to a pipe that is not read, to a terminal that is held, or to a disk that stalls blocks the
thread that makes the write. Callers therefore only put a line into a bounded queue. Lines beyond
the bound, and lines that the system refuses (a full disk, a closed pipe), are dropped and counted;
when lines are written again, one line says how many were dropped. [both]
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUEUED: Final = 4 << 20
"""Bytes of lines that may wait for the thread."""

STDERR: Final = 2


class Sink(Protocol):
    """A place that lines are written to."""

    def write(self, line: bytes) -> None:
        """Write the whole line, however long that takes. Raises OSError."""

    def write_if_free(self, line: bytes) -> bool:
        """Write the line at once if no wait is possible; False: nothing was written."""


class Dropped:
    """Count dropped lines; safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0

    @property
    def total(self) -> int:
        """Return the number of lines dropped since the start."""
        return self._total

    def add(self, lines: int) -> None:
        """Add to the count."""
        with self._lock:
            self._total += lines


class LogWriter:
    """A bounded queue of lines and the one thread that writes them, in order.

    `notice` returns the line that says how many lines were dropped.
    """

    def __init__(
        self,
        sink: Sink,
        notice: Callable[[int], str],
        dropped: Dropped,
        limit: int = QUEUED,
    ) -> None:
        self._sink = sink
        self._notice = notice
        self._dropped = dropped
        self._limit = limit
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._writing = False
        self._overflowed = 0
        self._unreported = 0
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, text: str) -> None:
        """Queue a line. Returns at once, whatever the sink does."""
        line = _encoded(text)
        with self._changed:
            idle = not (self._writing or self._lines or self._unreported)
            if idle and self._sink.write_if_free(line):
                return
            if self._lines and self._bytes + len(line) > self._limit:
                self._overflowed += 1
                self._dropped.add(1)
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify_all()

    def flush(self, within: float) -> bool:
        """Wait until all lines are written or dropped; False if `within` seconds did not do."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._writing or self._lines), within)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._writing = True
                lines, self._lines = self._lines, []
                self._bytes = 0
                # Lines were refused only behind all of these: the queue was full then.
                overflowed, self._overflowed = self._overflowed, 0
            self._write(lines, overflowed)

    def _write(self, lines: list[bytes], overflowed: int) -> None:
        flows = True
        for line in lines:
            flows = self._try_write(line)
            if not flows:
                self._unreported += 1
                self._dropped.add(1)
            elif self._unreported:
                self._report()
        self._unreported += overflowed
        if flows and self._unreported:
            self._report()

    def _report(self) -> None:
        """Write how many lines were dropped; after a failure the next line tries again."""
        if self._try_write(_encoded(self._notice(self._unreported))):
            self._unreported = 0

    def _try_write(self, line: bytes) -> bool:
        try:
            self._sink.write(line)
        except OSError:
            return False
        return True


class Descriptor:
    """An open file descriptor as a sink."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._torn = False

    def write(self, line: bytes) -> None:
        """Write the whole line; after a line that broke off, on a line of its own."""
        rest = memoryview(b"\n" + line if self._torn else line)
        whole = len(rest)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another holder of the file has made it non-blocking
                _wait_until_writable(self._fd)
            except OSError:
                self._torn = self._torn or len(rest) < whole
                raise
        self._torn = False

    def write_if_free(self, line: bytes) -> bool:
        """Write nothing: only of a pipe is known that a write does not wait."""
        del line
        return False


class PipeDescriptor(Descriptor):
    """The write end of a pipe.

    A child's line is in the pipe when `put` returns, if there is room: the last line before an
    abort matters most. POSIX promises room for PIPE_BUF bytes where poll says writable.
    """

    def write_if_free(self, line: bytes) -> bool:
        """Write the line if the pipe has room for all of it."""
        if self._torn or len(line) > select.PIPE_BUF or not _is_writable(self._fd):
            return False
        with contextlib.suppress(OSError):
            return os.write(self._fd, line) == len(line)
        return False


class RotatingFile:
    """A file that begins anew at `max_bytes`; the `keep` former ones are kept, numbered.

    What is no regular file (a FIFO, a device) is written to and never renamed. After an error the
    file is opened anew for the next line: a disk may be mounted again, a FIFO's reader may return.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd: int | None = None
        self._out = Descriptor(-1)
        self._rotates = False
        self._size = 0
        self._opening = threading.Lock()

    def open(self) -> None:
        """Open the file where that has not been done. Raises OSError."""
        with self._opening:
            if self._fd is not None:
                return
            # Without O_NONBLOCK the open of a FIFO would wait for a reader.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
            fd = os.open(self._path, flags, 0o666)
            os.set_blocking(fd, True)
            status = os.fstat(fd)
            self._rotates = stat.S_ISREG(status.st_mode)
            self._size = status.st_size
            self._out = Descriptor(fd)
            self._fd = fd

    def write(self, line: bytes) -> None:
        """Append the line, to a new file if the present one would become too large."""
        self.open()
        if self._rotates and self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        try:
            self._out.write(line)
        except OSError:
            self._close()
            raise
        self._size += len(line)

    def write_if_free(self, line: bytes) -> bool:
        """Write nothing: a disk may always stall."""
        del line
        return False

    def _rotate(self) -> None:
        """Rename the files; where that cannot be, go on in the present one."""
        self._close()
        with contextlib.suppress(OSError):
            for number in range(self._keep - 1, 0, -1):
                if (older := self._numbered(number)).exists():
                    older.replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))
        self.open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _close(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = None


def write_within(fd: int, text: str, seconds: float) -> None:
    """Write a text to a descriptor; give up after this number of seconds."""
    thread = threading.Thread(
        target=_write_quietly, args=(fd, _encoded(text)), name="last line", daemon=True
    )
    thread.start()
    thread.join(seconds)


def _write_quietly(fd: int, line: bytes) -> None:
    with contextlib.suppress(OSError):
        Descriptor(fd).write(line)


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace") + b"\n"


def _is_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def _wait_until_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()
