"""Parse bodies off the event loop: small ones here, large ones in a process of their own.

A thread would not do. msgspec decodes a body in one call that holds the interpreter's lock: 15 MB
of empty lists took 2.7 s, 16 MB of text with escapes 0.1 s. So a large body goes to a process that
parses it and sends back a request whose bulky parts are bytes (`parser_frames`): what is left for
the front is to copy them. The process starts with the first large body, parses one at a time, and
ends with the front, whose end of the pipe it reads.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from aiohttp import web

from mlx_worker.api.parsing import parser_frames as frames
from mlx_worker.api.parsing.body_kinds import parse
from mlx_worker.errors import ProtocolViolation, Unavailable
from mlx_worker.logs import Entry
from mlx_worker.supervisor.process.launch.environment import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from mlx_worker.api.parsing.body_kinds import AnyBodyKind, BodyKind
    from mlx_worker.api.parsing.model_table import ModelTable, NodeModels
    from mlx_worker.supervisor.process.pause import PauseDetector

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGE_BODY: Final = 128 * 1024
"""Bytes of a body that is parsed in the other process.

Twice as many, all of them empty lists, took 40 ms on the event loop.
"""

BODY_TIMEOUT: Final = 120.0
"""Seconds for one body. The largest with the most values takes some seconds of a processor, and
four times as long on a busy machine: the process has a low priority."""

MAX_ATTEMPTS: Final = 2
"""Processes that one body is sent to: a process may end for reasons of its own."""

COMMAND: Final[Sequence[str]] = (
    sys.executable,
    "-P",
    "-m",
    "mlx_worker.api.parsing.parser_process",
)

_READ_BUFFER: Final = 1 << 20
"""Bytes of a large answer that are read ahead."""

_WRITE_CHUNK: Final = 256 * 1024
"""Bytes that are written at a time: other work on the event loop comes in between."""


class Parser:
    """The process for large bodies and its pipes; a context that ends the process."""

    def __init__(self, pause: PauseDetector, command: Sequence[str] = COMMAND) -> None:
        self._pause = pause
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._exchanges: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for exchange in self._exchanges:
            exchange.cancel()
        await self._end_process()

    async def run(self, kind: BodyKind[T], models: ModelTable, body: bytes) -> T:
        """Return the result of parsing a body in the process. Raises the body's refusal.

        If the caller is cancelled, the exchange still runs to its end, so that the next one finds
        the pipe between two frames.
        """
        question = frames.encode(frames.ParsingQuestion(cast("AnyBodyKind", kind), models))
        exchange = asyncio.create_task(self._exchange_with_retry(question, body))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._on_exchange_done)
        answer = await asyncio.shield(exchange)
        return cast("T", answer.result())

    def _on_exchange_done(self, exchange: asyncio.Task[Any]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # marks an error as retrieved: the caller may be cancelled

    async def _exchange_with_retry(self, question: bytes, body: bytes) -> frames.AnyParsingAnswer:
        async with self._lock:
            for _ in range(MAX_ATTEMPTS):
                try:
                    async with self._pause.timeout(BODY_TIMEOUT):
                        return await self._exchange(question, body)
                except _PROCESS_LOST as error:
                    log.warning(Entry("parser lost", why=type(error).__name__))
                    await self._end_process()
        raise Unavailable("the process that parses large bodies ended", retry_after=1)

    async def _exchange(self, question: bytes, body: bytes) -> frames.AnyParsingAnswer:
        process = await self._ensure_process()
        assert process.stdin is not None
        assert process.stdout is not None
        for payload in (question, body):
            process.stdin.write(frames.frame_header(payload))
            view = memoryview(payload)
            for start in range(0, len(payload), _WRITE_CHUNK):
                process.stdin.write(view[start : start + _WRITE_CHUNK])
                await process.stdin.drain()
        size = frames.payload_size(await process.stdout.readexactly(frames.HEADER))
        return frames.decode_answer(await process.stdout.readexactly(size))

    async def _ensure_process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_READ_BUFFER,
                env=without_secrets(os.environ),
                # Only the front handles ctrl-C in a terminal.
                start_new_session=True,
            )
        return self._process

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


_PROCESS_LOST: Final = (
    OSError,
    EOFError,
    TimeoutError,
    ProtocolViolation,
    RuntimeError,  # uvloop's: the pipe was closed before a write
)
"""What an exchange with a process that ends or answers garbage raises."""

PARSER: web.AppKey[Parser] = web.AppKey("parser", Parser)


async def parse_body(request: web.Request, body: bytes, kind: BodyKind[T], models: NodeModels) -> T:
    """Return the packed result of parsing a body; no body holds the event loop.

    Raises the body's refusal.
    """
    if len(body) <= LARGE_BODY:
        return parse(kind, body, models)
    return await request.app[PARSER].run(kind, models.table(), body)
