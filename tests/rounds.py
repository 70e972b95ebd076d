"""How much a test does: enough for its promise by default, everything in its own environment.

`MLX_WORKER_TEST_ROUNDS` is `short` (the default run), `full` (`tox -e full`), `long` (`tox -e soak`
and its kind) or, for tests that count, a number. `MLX_WORKER_TEST_SEED` chooses other random
numbers. A variant of a promise that another variant proves by default has the marker `full` (see
`variants`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

ROUNDS: Final = os.environ.get("MLX_WORKER_TEST_ROUNDS", "short")
SEED: Final = int(os.environ.get("MLX_WORKER_TEST_SEED", "1"))
IS_LONG: Final = ROUNDS not in ("short", "full")
"""True if everything is tried that there is."""


def rounds(short: int, full: int, long: int) -> int:
    """Return how often a test tries: the figure that the environment names, or one of these."""
    if ROUNDS.isdecimal():
        return int(ROUNDS)
    return {"short": short, "full": full, "long": long}[ROUNDS]


def variants(values: Iterable[Any], default: Collection[Any], *, marker: str = "full") -> list[Any]:
    """Return parameters of a test: those that are no `default` run where their marker is chosen."""
    marked = getattr(pytest.mark, marker)
    return [value if value in default else pytest.param(value, marks=marked) for value in values]
