"""Describe a generation request, for metrics, the log, traces and the table of requests.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from aiohttp import web

    from mlx_worker.api.dialects.base import Usage
    from mlx_worker.supervisor.requests.generation import Generation

Outcome = Literal["success", "client_error", "refused", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request at a moment, for most readers its end; times are on `time.perf_counter`.

    `model` is "" where no model was found, and `error` "" where nothing went wrong. `status` is
    None where the client left before a status was sent. `prompt` and `cache_hit` are None until a
    model has begun. `accepted` is when the request was known to be valid and for which model.
    `ended` is the moment itself: a request that runs has no end yet. `dropped_lines` of the system
    prompt's head were left out.
    """

    request: web.Request
    dialect: str
    model: str
    outcome: Outcome
    error: str
    status: int | None
    warnings: list[str]
    prompt: Usage | None
    cache_hit: bool | None
    generations: list[Generation]
    began: float
    accepted: float | None
    ended: float
    dropped_lines: int = 0

    @property
    def seconds(self) -> float:
        """Return how long the request took, from the arrival of its body."""
        return self.ended - self.began

    @property
    def seconds_to_first_token(self) -> float | None:
        """Return the time to the first token of any choice; None without a token."""
        times = [
            generation.first_token_at
            for generation in self.generations
            if generation.first_token_at is not None
        ]
        return min(times) - self.began if times else None

    @property
    def resumes(self) -> int:
        """Return how often another process continued a choice after a crash."""
        return sum(max(0, len(generation.handed_over) - 1) for generation in self.generations)

    @property
    def completion_tokens(self) -> int:
        """Return the tokens that all choices have generated."""
        return sum(len(generation.tokens) for generation in self.generations)
