"""A response handler for requests with one answer: warm, clear, trim, tokenize.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mlx_worker.errors import ChildLost, WorkerError
from mlx_worker.supervisor.requests.disk_suspicion import MOST_OF_A_REQUEST
from mlx_worker.supervisor.requests.generation import as_error
from mlx_worker.wire.messages import PrefillProgress, RequestFailed
from mlx_worker.wire.prompt_cache import CacheCleared, PromptWarmed
from mlx_worker.wire.tokenizing import DetokenizeResult, TokenizeResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_worker.supervisor.process.connection import ResponseMessage

UnaryAnswer = PromptWarmed | CacheCleared | TokenizeResult | DetokenizeResult


class UnaryCall:
    """Waits for the final response to its id.

    `on_suspects` gets the records on disk that a process had read for the call when the process
    died.
    """

    def __init__(self, on_suspects: Callable[[Sequence[bytes]], None]) -> None:
        self.answer: asyncio.Future[UnaryAnswer] = asyncio.get_running_loop().create_future()
        self._on_suspects = on_suspects
        self._read: Sequence[bytes] = ()

    def on_message(self, message: ResponseMessage) -> None:
        """Keep the final response."""
        if self.answer.done():
            return
        match message:
            case PromptWarmed() | CacheCleared() | TokenizeResult() | DetokenizeResult():
                self.answer.set_result(message)
            case RequestFailed():
                self._fail(as_error(message))
            case PrefillProgress() if message.disk_records:
                self._read = message.disk_records[:MOST_OF_A_REQUEST]
            case _:
                pass

    def on_connection_lost(self, why: str) -> None:
        """Fail the call; the next process may answer another."""
        if not self.answer.done():
            self._on_suspects(self._read)
            self._fail(ChildLost(why, retry_after=1))

    def _fail(self, error: WorkerError) -> None:
        self.answer.set_exception(error)
        self.answer.exception()  # the caller may have left
