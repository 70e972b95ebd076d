"""Count generation requests and their tokens since the start of the node.

Each request is counted once, at its end. `/health` counts requests in its own statistics.

[front]
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from mlx_worker.histogram import FIRST_TOKEN, WHOLE_ANSWER, Histogram

if TYPE_CHECKING:
    from mlx_worker.api.request_record import Outcome


MIN_PREFILL_TOKENS: Final = 64
"""Computed tokens of a prompt whose prefill is counted: fewer take no longer than a decode step."""


class RequestLabels(NamedTuple):
    """What tells counted requests apart. `model` is "" where no model was found."""

    model: str
    dialect: str
    outcome: Outcome
    error: str


@dataclass(slots=True)
class ModelMetrics:
    """One model's prompt tokens, and seconds to the first token and to a successful end.

    `prefill_tokens` took `prefill_seconds` from a process's start on a prompt to its first token.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN))
    duration: Histogram = field(default_factory=lambda: Histogram(WHOLE_ANSWER))

    def add_prefill(self, tokens: int, seconds: float) -> None:
        """Count the prefill of a prompt, if it was long enough to tell the speed of prefill."""
        if tokens >= MIN_PREFILL_TOKENS:
            self.prefill_tokens += tokens
            self.prefill_seconds += seconds


class RequestMetrics:
    """The counts of all requests, and of each model.

    `joined` counts requests, by model and dialect, that read the response of an earlier request.
    """

    def __init__(self) -> None:
        self.requests: Counter[RequestLabels] = Counter()
        self.joined: Counter[tuple[str, str]] = Counter()
        self.by_model: defaultdict[str, ModelMetrics] = defaultdict(ModelMetrics)
