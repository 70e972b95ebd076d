"""The progress of a pull, without any output of its own.

[both]
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often, with bytes; `total` is None while it is unknown."""

    def __call__(self, done: int, total: int | None, /) -> None:
        """Take note of `done` bytes out of `total`."""


def no_progress(_done: int, _total: int | None, /) -> None:
    """Ignore the progress, for callers that do not show it."""
