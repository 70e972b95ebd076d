"""The system prompts that are to be resident in each process of a model.

The prompts of the configuration's files come first, then those that clients have warmed since. The
last one is warmed last, because a cache report shows it.

[front]
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mlx_worker.errors import WorkerError
from mlx_worker.limits import WARM_PROMPTS
from mlx_worker.models.regular import read_regular
from mlx_worker.system.daemon_threads import call_in_daemon_thread
from mlx_worker.system.text_files import decode_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WarmPrompt:
    """A system prompt that is resident: SHA-256 hex, tokens, when (ms since the epoch)."""

    digest: str
    tokens: int
    at: float


class WarmSet:
    """Prompts in the order of their warming."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._from_clients: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Return True if there are prompts to warm."""
        return bool(self.files or self._from_clients)

    def warmed(self, prompt: str) -> None:
        """Note that a prompt is resident, and is to be so in the next process."""
        self._from_clients.pop(prompt, None)
        self._from_clients[prompt] = None
        if len(self._from_clients) > WARM_PROMPTS:
            del self._from_clients[next(iter(self._from_clients))]

    def clear(self) -> None:
        """Forget the prompts that clients have warmed."""
        self._from_clients.clear()

    async def prompts(self) -> AsyncIterator[str]:
        """Yield the prompts that a new process is to warm.

        A client's prompt is forgotten until it has been warmed again: a prompt that kills its
        process must not kill each new one.
        """
        from_clients = list(self._from_clients)
        for path in self.files:
            try:
                prompt = await call_in_daemon_thread(partial(_text_of, path), f"read {path.name}")
            except (OSError, ValueError, WorkerError) as error:
                log.warning("%s was not warmed: %s", path, error)
                continue
            if prompt not in from_clients:
                yield prompt
        for prompt in from_clients:
            self._from_clients.pop(prompt, None)
            yield prompt


def _text_of(path: Path) -> str:
    return decode_text(read_regular(path))
