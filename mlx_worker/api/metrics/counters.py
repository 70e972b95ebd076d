"""What generations came to since the start: who asked how, how it ended, how long it took.

Counted once a request; only the exposition of metrics reads it. What `/health` counts is not
counted here. [front]
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mlx_worker.histogram import FIRST_TOKEN, WHOLE_ANSWER, Histogram

Outcome = Literal["success", "client_error", "refused", "failed", "cancelled"]


class RequestLabels(NamedTuple):
    """Requests that are counted together. `model` is "" where none was found, `error` a code."""

    model: str
    dialect: str
    outcome: Outcome
    error: str


@dataclass(slots=True)
class ModelMetrics:
    """One model's tokens in, and seconds to the first token out and to a good end."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN))
    duration: Histogram = field(default_factory=lambda: Histogram(WHOLE_ANSWER))


class RequestMetrics:
    """All of it. `flows` by model."""

    def __init__(self) -> None:
        self.requests: Counter[RequestLabels] = Counter()
        self.by_model: defaultdict[str, ModelMetrics] = defaultdict(ModelMetrics)
