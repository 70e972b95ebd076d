"""Bodies that are parsed off the event loop: small ones here, large ones in a process of their own.

A thread would not do. msgspec decodes a body in one call that holds the interpreter's lock: 15 MB
of empty lists took 2.7 s, 16 MB of text with escapes 0.1 s. So a large body goes to a process that
parses it and sends back a request whose bulky parts are bytes (`parser_frames`): what the front has
to do with it then is copying. The process starts with the first large body, parses one at a time,
and ends with the front, whose end of the pipe it reads. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from aiohttp import web

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.parsing import parser_frames as frames
from mlx_worker.api.parsing.body_kinds import parse
from mlx_worker.api.parsing.model_terms import Models
from mlx_worker.errors import ProtocolViolation, Unavailable
from mlx_worker.logs import Entry
from mlx_worker.supervisor.process.environment import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from mlx_worker.api.parsing.body_kinds import AnyAsk, Ask
    from mlx_worker.api.parsing.model_terms import ModelTable

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGE: Final = 128 * 1024
"""Bytes of a body that is parsed in the other process.

Twice as many, all of them empty lists, took 40 ms on the event loop.
"""

PATIENCE: Final = 120.0
"""Seconds for one body. The largest with the most values takes some seconds of a processor, and
where the machine is busy four times as long: the process gives way to others."""

TRIES: Final = 2
"""Processes that a body is given to: one may end for reasons of its own."""

COMMAND: Final[Sequence[str]] = (
    sys.executable,
    "-P",
    "-m",
    "mlx_worker.api.parsing.parser_process",
)

_BUFFER: Final = 1 << 20
"""Bytes that are read ahead of a large answer."""

_PIECE: Final = 256 * 1024
"""Bytes that are written at a time: other work on the loop comes in between."""


class Parser:
    """The process and its pipes; a context whose end is the process's."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
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
        await self._end()

    async def run(self, ask: Ask[T], models: ModelTable, body: bytes) -> T:
        """Return what the process makes of a body. Raises its refusal.

        A caller that is cancelled leaves the exchange to its end, so that the next one finds the
        pipe between two frames.
        """
        asked = frames.encode(frames.Question(cast("AnyAsk", ask), models))
        exchange = asyncio.create_task(self._in_turn(asked, body))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanged)
        answer = await asyncio.shield(exchange)
        return cast("T", answer.parsed())

    def _exchanged(self, exchange: asyncio.Task[Any]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # its caller may have left

    async def _in_turn(self, asked: bytes, body: bytes) -> frames.AnyAnswer:
        async with self._turn:
            for _ in range(TRIES):
                try:
                    async with asyncio.timeout(PATIENCE):
                        return await self._exchange(asked, body)
                except (OSError, EOFError, TimeoutError, ProtocolViolation) as error:
                    log.warning(Entry("parser lost", why=type(error).__name__))
                    await self._end()
        raise Unavailable("the process that parses large bodies ended", retry_after=1)

    async def _exchange(self, asked: bytes, body: bytes) -> frames.AnyAnswer:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        for payload in (asked, body):
            process.stdin.write(frames.header_of(payload))
            view = memoryview(payload)
            for at in range(0, len(payload), _PIECE):
                process.stdin.write(view[at : at + _PIECE])
                await process.stdin.drain()
        size = frames.size_of(await process.stdout.readexactly(frames.HEADER))
        return frames.answer_in(await process.stdout.readexactly(size))

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_BUFFER,
                env=without_secrets(os.environ),
                # ctrl-C in a terminal is the front's to answer.
                start_new_session=True,
            )
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


PARSER: web.AppKey[Parser] = web.AppKey("parser", Parser)


async def parsed(request: web.Request, body: bytes, ask: Ask[T]) -> T:
    """Return what is made of a body of this kind, packed; no body holds the event loop.

    Raises the body's refusal.
    """
    models = Models(request.app[CONTEXT].node)
    if len(body) <= LARGE:
        return parse(ask, body, models)
    return await request.app[PARSER].run(ask, models.table(), body)
