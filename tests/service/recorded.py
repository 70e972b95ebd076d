"""A system's command that answers as it was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.service.run import Ran

if TYPE_CHECKING:
    from collections.abc import Sequence


class Recorded:
    """Answers by verb, and with success where nothing was recorded; keeps what was asked."""

    def __init__(self, **answers: Ran) -> None:
        self._answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> Ran:
        self.asked.append(list(command))
        verb = next(word for word in command[1:] if not word.startswith("-"))
        return self._answers.get(verb, Ran(0, ""))
