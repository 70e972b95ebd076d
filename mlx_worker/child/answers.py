"""Watch the answers of sessions, so that the memory of partings has them beside their prompts.

Only answers of sessions are watched; what is done for a step costs as much as a few of its rows.
[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker.wire.messages import RequestFailed
from mlx_worker.wire.output import Done, StepOutput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlx_worker.engine.partings import PartingMemory
    from mlx_worker.wire.messages import Generate


class AnswerWatch:
    """Collects the tokens of running answers; on the thread that owns mlx."""

    def __init__(self, memory: PartingMemory) -> None:
        self._memory = memory
        self._running: dict[int, tuple[Generate, list[int]]] = {}

    def begin(self, message: Generate) -> None:
        """Watch the answer to a message that belongs to a session; a replay is its beginning."""
        if message.session:
            self._running[message.id] = message, [*message.replay]

    def observe(self, messages: Iterable[Any]) -> None:
        """Take note of an engine's messages."""
        if not self._running:
            return
        for message in messages:
            match message:
                case StepOutput():
                    self._add(message.rows)
                case Done():
                    self._end(message.id)
                case RequestFailed():
                    self._running.pop(message.id, None)

    def _add(self, rows: Sequence[Any]) -> None:
        running = self._running
        for row in rows:
            if (watched := running.get(row.id)) is not None:
                watched[1].extend(row.tokens)

    def _end(self, id_: int) -> None:
        if (watched := self._running.pop(id_, None)) is not None:
            message, tokens = watched
            self._memory.add_answer(message.session, message.body, tokens)
