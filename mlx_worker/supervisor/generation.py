"""One request's life: opened in a child, heard row by row, ended exactly once.

The link's callback puts what it hears here without waking a task for each token: `wait` wakes the
reader once, `take` hands over everything that came since, so that a reader who lags sends many
tokens in one write. [front]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker import errors
from mlx_worker.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.supervisor.child import Child
    from mlx_worker.supervisor.link import Told

_BY_CODE = {
    kind.code: kind
    for kind in (
        errors.InvalidRequest,
        errors.ContextLengthExceeded,
        errors.ChildLost,
        errors.CacheError,
        errors.InferenceError,
    )
}


def as_error(failed: m.Failed) -> errors.WorkerError:
    """A child's `Failed` as the error it names."""
    kind = _BY_CODE.get(failed.code, errors.WorkerError)
    retry = 1 if kind is errors.ChildLost else None
    return kind(failed.message, param=failed.param, retry_after=retry)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended: the client's finish reason and what was generated, in tokens."""

    finish: m.FinishReason
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What came since the last time: text, and an entry a token where logprobs were asked for."""

    text: str
    logprobs: list[m.TokenLogprobs]


class Generation:
    """A listener of the link on one side, a source of text on the other."""

    def __init__(self, id_: int, child: Child, on_end: Callable[[], None]) -> None:
        self.id = id_
        self.tokens: list[int] = []
        self.ending: Ending | None = None
        self._child = child
        self._on_end = on_end
        self._text: list[str] = []
        self._logprobs: list[m.TokenLogprobs] = []
        self._failed: m.Failed | None = None
        self._over = False
        self._news = asyncio.Event()
        self._started: asyncio.Future[m.Started] = asyncio.get_running_loop().create_future()

    # --- the link's side ---

    def hear(self, message: Told) -> None:
        """Take in one message about this id."""
        match message:
            case m.Row():
                self.tokens += message.tokens
                self._logprobs += message.logprobs
                self._say(message.text)
            case m.Started():
                if not self._started.done():
                    self._started.set_result(message)
            case m.Done():
                self.ending = Ending(message.finish, message.completion_tokens)
                self._end(message.text)
            case m.Failed():
                self._failed = message
                self._end("")
            case _:
                pass

    def _say(self, text: str) -> None:
        if text:
            self._text.append(text)
        if text or self._logprobs:
            self._news.set()

    def _end(self, text: str) -> None:
        self._say(text)
        self._over = True
        self._news.set()
        if self._failed is not None and not self._started.done():
            self._started.set_exception(as_error(self._failed))
            self._started.exception()  # whoever asks is told; nobody has to
        self._on_end()

    # --- the reader's side ---

    async def started(self) -> m.Started:
        """Wait until the child has admitted it. Raises the refusal if it does not."""
        return await asyncio.shield(self._started)

    async def take(self) -> Piece | None:
        """What came since the last call, waiting until there is something; None at the end.

        Raises what went wrong once everything said before it was taken.
        """
        while not (self._text or self._logprobs):
            if self._over:
                if self._failed is not None:
                    raise as_error(self._failed)
                return None
            self._news.clear()
            await self._news.wait()
        piece = Piece("".join(self._text), self._logprobs)
        self._text.clear()
        self._logprobs = []
        return piece

    def leave(self) -> None:
        """The client is gone or has had enough: free the row. Harmless after the end."""
        if not self._over:
            self._child.cancel(self.id)
