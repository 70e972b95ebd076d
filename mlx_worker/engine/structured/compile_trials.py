"""The child's end of the helper process that tries costly grammars.

The helper starts with the first costly grammar and is kept. A helper that was ended over a grammar
is replaced when the next grammar comes. The helper ends with this process, which holds the other
end of its pipe. [child]
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.errors import Unavailable
from mlx_worker.grammar_trial.trial import Trial, Verdict, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECONDS: Final = 0.6
"""Of processor time, for all grammars of one answer. A grammar that passes is compiled once more in
this process, which takes less than half of that time."""

LOOKS: Final = 60
"""Waits of `EACH` for a verdict: a machine too busy to give the helper its processor time by then.
Counted, not timed: while the whole machine or all processes are stopped, one wait passes at most.
"""

EACH: Final = 1.0
"""Seconds."""

TRIES: Final = 2
"""Helpers that try a grammar: a helper may end for other reasons."""

COMMAND: Final = (sys.executable, "-P", "-m", "mlx_worker.grammar_trial.helper")


class Trials:
    """Try grammars with one vocabulary. Called by one thread."""

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
        """Return the verdict of the helper; None: its time was used up, or the helper ended twice.

        Raises Unavailable where no helper can be started, whatever the grammar.
        """
        for _ in range(TRIES):
            process = self._running()
            line = self._answer(process, msgspec.json.encode(trial) + b"\n")
            if line is not None and line.endswith(b"\n"):
                return msgspec.json.decode(line, type=Verdict)
            if line is not None:  # the end of the output: the exit status says why
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(EACH)
            self.close()
            if line is None or process.returncode == -signal.SIGPROF:
                return None
        return None

    def close(self) -> None:
        """End the helper, if any."""
        self._process = None
        self._end()

    def _answer(self, process: subprocess.Popen[bytes], line: bytes) -> bytes | None:
        """Return a line of the helper, cut short if the helper ended; None: none came in time."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.write(line)
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            for _ in range(LOOKS):
                if selector.select(EACH):
                    return process.stdout.readline()
        return None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # the helper ended by itself: no fault of this grammar
        if self._process is None:
            try:
                self._process = subprocess.Popen(  # noqa: S603  (our own module, by our own Python)
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # so that its priority is lowered as a session's
                )
            except OSError as error:
                why = f"the process that checks grammars cannot be started: {error.strerror}"
                raise Unavailable(why, retry_after=1) from error
            self._end = weakref.finalize(self, _end, self._process)
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # the helper has ended: no verdict will come
                self._process.stdin.write(self._first)
        return self._process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
