"""Bodies that are parsed off the event loop: small ones here, large ones in a process of their own.

A thread would not do. msgspec decodes a body in one call that holds the interpreter's lock: 15 MB
of empty lists took 2.7 s, 16 MB of text with escapes 0.1 s. So a large body goes to a process that
parses it and sends back a request whose bulky parts are bytes (`packing`): what the front has to do
with it then is copying. The process starts with the first large body, parses one at a time, and
ends with the front, whose end of the pipe it reads. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from aiohttp import web

from mlx_worker.api.packing import HEADER, Failure, in_packs
from mlx_worker.config import KEY_VARIABLE, KEYS_VARIABLE
from mlx_worker.errors import Unavailable
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

log = logging.getLogger(__name__)

T = TypeVar("T")

LARGE: Final = 128 * 1024
"""Bytes of a body that is parsed in the other process.

Twice as many, all of them empty lists, took 40 ms on the event loop.
"""

PATIENCE: Final = 30.0
"""Seconds for one body. The largest with the most values takes about one."""

TRIES: Final = 2
"""Processes that a body is given to: one may end for reasons of its own."""

COMMAND: Final[Sequence[str]] = (sys.executable, "-P", "-m", "mlx_worker.api.parser_process")

_BUFFER: Final = 1 << 20
"""Bytes that are read ahead of a large answer."""

_PIECE: Final = 256 * 1024
"""Bytes that are written at a time: other work on the loop comes in between."""

_SECRETS: Final = frozenset({KEYS_VARIABLE, KEY_VARIABLE})


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

    async def run(self, parse: Callable[..., T], *arguments: Any, body: bytes = b"") -> T:
        """Return what `parse` returns of these arguments in the process. Raises its refusal.

        A `body` goes before the arguments, without a copy of it. `parse` is a function of a module;
        what it returns is packed. A caller that is cancelled leaves the exchange to its end, so
        that the next one finds the pipe between two frames.
        """
        exchange = asyncio.create_task(self._in_turn(pickle.dumps((parse, arguments)), body))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanged)
        said = await asyncio.shield(exchange)
        if not isinstance(said, Failure):
            return cast("T", said)
        if said.refusal is not None:
            raise said.refusal
        raise RuntimeError(f"parsing a body failed with {said.other}")

    def _exchanged(self, exchange: asyncio.Task[Any]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # its caller may have left

    async def _in_turn(self, asked: bytes, body: bytes) -> Any:
        async with self._turn:
            for _ in range(TRIES):
                try:
                    async with asyncio.timeout(PATIENCE):
                        answer = await self._exchange(asked, body)
                        return pickle.loads(answer)  # noqa: S301  (of our own process)
                except (OSError, EOFError, TimeoutError) as error:
                    log.warning(Entry("parser lost", why=type(error).__name__))
                    await self._end()
        raise Unavailable("the process that parses large bodies ended", retry_after=1)

    async def _exchange(self, asked: bytes, body: bytes) -> bytes:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        for part in (asked, body):
            process.stdin.write(len(part).to_bytes(HEADER, "big"))
            view = memoryview(part)
            for at in range(0, len(part), _PIECE):
                process.stdin.write(view[at : at + _PIECE])
                await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(HEADER), "big")
        return await process.stdout.readexactly(size)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_BUFFER,
                env={name: it for name, it in os.environ.items() if name not in _SECRETS},
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


async def parsed(request: web.Request, body: bytes, parse: Callable[..., T], *arguments: Any) -> T:
    """Return what `parse` makes of a body, packed, without holding anybody up.

    Raises its refusal.
    """
    if len(body) <= LARGE:
        return cast("T", in_packs(parse(body, *arguments)))
    return await request.app[PARSER].run(parse, *arguments, body=body)
