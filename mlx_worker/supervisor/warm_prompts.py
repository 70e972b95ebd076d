"""The system prompts that are to be resident in a model's child, whichever process that is.

Those of the configuration's files, then those that somebody warmed since, the last one last: it is
the one that a cache report speaks of. [front]
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
        self._asked: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Is there anything to warm?"""
        return bool(self.files or self._asked)

    def warmed(self, prompt: str) -> None:
        """It is resident now, and is to be so in the next process."""
        self._asked.pop(prompt, None)
        self._asked[prompt] = None
        if len(self._asked) > WARM_PROMPTS:
            del self._asked[next(iter(self._asked))]

    def clear(self) -> None:
        """Nobody wants what was asked for any more."""
        self._asked.clear()

    async def prompts(self) -> AsyncIterator[str]:
        """What a new process is to warm.

        Each is forgotten as it is handed out, until it has been warmed again: a prompt that ends
        processes must not end them all.
        """
        asked = list(self._asked)
        for path in self.files:
            try:
                prompt = await call_in_daemon_thread(partial(_text_of, path), f"read {path.name}")
            except (OSError, ValueError, WorkerError) as error:
                log.warning("%s was not warmed: %s", path, error)
                continue
            if prompt not in asked:
                yield prompt
        for prompt in asked:
            self._asked.pop(prompt, None)
            yield prompt


def _text_of(path: Path) -> str:
    return decode_text(read_regular(path))
