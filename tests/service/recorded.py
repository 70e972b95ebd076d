"""A system's command that answers as it was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlx_worker.service.subprocess_runner import CommandResult

if TYPE_CHECKING:
    from collections.abc import Sequence


class Recorded:
    """Answers by verb, or by program where there is none; with success where nothing was recorded.

    Keeps what was asked.
    """

    def __init__(self, **answers: CommandResult) -> None:
        self._answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> CommandResult:
        self.asked.append(list(command))
        program = Path(command[0]).name
        verb = next((word for word in command[1:] if not word.startswith("-")), program)
        return self._answers.get(program) or self._answers.get(verb) or CommandResult(0, "")
