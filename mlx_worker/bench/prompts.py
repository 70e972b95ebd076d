"""Prompts that no run has sent before: plain words, drawn from a seed.

Every server of a round gets the same ones, and no round those of another, so that a prompt cache
holds just what a scenario put there. [bench]
"""

from __future__ import annotations

import random
from typing import Any

from mlx_worker.bench.synthetic.tokenizer import WORDS


class Prompts:
    """A stream of prompts; the same seed brings the same ones in the same order."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)  # noqa: S311  (no secret)

    def words(self, count: int) -> str:
        """Return this number of words; about as many tokens."""
        return " ".join(self.random.choices(WORDS, k=count))

    def user(self, count: int) -> dict[str, Any]:
        """Return a user message of this number of words."""
        return {"role": "user", "content": self.words(count)}

    def system(self, count: int) -> dict[str, Any]:
        """Return a system message of this number of words."""
        return {"role": "system", "content": self.words(count)}
