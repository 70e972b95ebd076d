"""A fake worker in a process of its own, on the pipe that the product's child has.

What no signal does by itself is done when one asks: SIGUSR1 for garbage on the pipe, SIGUSR2 for an
exit.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # `tests` is found in whatever folder this starts

from mlx_worker.child.pipe import Pipe
from mlx_worker.wire.framing import frames_to_child
from tests.fake_worker import EXIT_AS_TOLD, GARBAGE, FakeWorker, Tick, arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.messages import ToChild


class ThisProcess:
    """The host of a worker: its coroutines block, so that the worker never suspends."""

    def __init__(self, fd: int) -> None:
        self.pid = os.getpid()
        self._fd = fd
        self._pipe = Pipe(fd)
        self._jobs: queue.SimpleQueue[ToChild | Tick] = queue.SimpleQueue()

    def listen(self, worker: FakeWorker) -> None:
        """Read on a thread of its own, which answers pings whatever the worker does."""

        def on_message(message: ToChild) -> None:
            if (pong := worker.reply_at_once(message)) is not None:
                self.send([pong])
            else:
                self._jobs.put(message)

        def read_past_eof() -> None:
            frames = frames_to_child()
            while data := os.read(self._fd, 1 << 16):
                for message in frames.feed(data):
                    on_message(message)

        if worker.ignores_eof:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Thread(target=read_past_eof, daemon=True).start()
        else:
            self._pipe.listen(on_message)

    def send(self, messages: Iterable[WireMessage]) -> None:
        self._pipe.send(messages)

    def send_bytes(self, data: bytes) -> None:
        os.write(self._fd, data)

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def has_jobs(self) -> bool:
        return not self._jobs.empty()

    async def next_job(self) -> ToChild | Tick:
        return self._jobs.get()

    def follow(self, pace: Path) -> None:
        def read() -> None:
            with pace.open("rb", buffering=0) as fifo:
                while fifo.read(1):
                    self._jobs.put(Tick())

        threading.Thread(target=read, daemon=True).start()

    async def wait_for_byte(self, fifo: Path) -> None:
        with fifo.open("rb", buffering=0) as leave:
            leave.read(1)

    async def sleep(self, seconds: float) -> None:
        if seconds:
            time.sleep(seconds)  # noqa: ASYNC251  (no loop runs here)

    async def hang(self) -> NoReturn:
        while True:
            threading.Event().wait()

    async def end(self, code: int) -> NoReturn:
        if code < 0:
            os.kill(self.pid, -code)
        sys.exit(code)


def main() -> None:
    _, fd = sys.argv[-2:]
    host = ThisProcess(int(fd))
    worker = FakeWorker(arguments(sys.argv[1:-2]), host)
    signal.signal(signal.SIGUSR1, lambda *_: host.send_bytes(GARBAGE))
    signal.signal(signal.SIGUSR2, lambda *_: os._exit(EXIT_AS_TOLD))
    host.listen(worker)
    worker.run().send(None)  # it never suspends


if __name__ == "__main__":
    main()
