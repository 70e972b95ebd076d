"""The child's end of the helper process that tries costly grammars.

The helper starts with the first of them and is kept; one that was ended over a grammar is replaced
when the next one comes. It ends with this process, which holds the other end of its pipe. [child]
"""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.engine.compile_trial import Trial, Verdict, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECONDS: Final = 0.6
"""Of processor time, for all grammars of one answer: what passes is compiled once more here, which
is less than half of it."""

PATIENCE: Final = 60.0
"""Seconds by the clock: a machine too busy to give the helper its processor time by then."""

COMMAND: Final = (sys.executable, "-P", "-m", "mlx_worker.engine.compile_helper")


class Trials:
    """One vocabulary's. Called by one thread."""

    def __init__(
        self,
        tokenizer: str,
        ends: list[int],
        *,
        seconds: float = SECONDS,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._first = msgspec.json.encode(Vocabulary(tokenizer, ends, seconds)) + b"\n"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None

    def verdict(self, trial: Trial) -> Verdict | None:
        """Return the verdict of the helper; None: its processor time was used up."""
        try:
            line = self._answer(msgspec.json.encode(trial) + b"\n")
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            return None
        return msgspec.json.decode(line, type=Verdict)

    def close(self) -> None:
        """End the helper, if there is one."""
        self._process = None
        self._end()

    def _answer(self, line: bytes) -> bytes:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line)
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            return process.stdout.readline() if selector.select(PATIENCE) else b""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it has ended by itself: no fault of the grammar that comes now
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603  (our own module, by our own Python)
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._end = weakref.finalize(self, _end, self._process)
            assert self._process.stdin is not None
            self._process.stdin.write(self._first)
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
