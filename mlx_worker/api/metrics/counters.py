"""Count generation requests and their tokens since the start of the node.

Each request is counted once, at its end. `/health` counts requests in its own statistics.

[front]
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mlx_worker.histogram import FIRST_TOKEN, WHOLE_ANSWER, Histogram

if TYPE_CHECKING:
    from mlx_worker.api.request_record import Outcome


class RequestLabels(NamedTuple):
    """What tells counted requests apart. `model` is "" where no model was found."""

    model: str
    dialect: str
    outcome: Outcome
    error: str


@dataclass(slots=True)
class ModelMetrics:
    """One model's prompt tokens, and seconds to the first token and to a successful end."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN))
    duration: Histogram = field(default_factory=lambda: Histogram(WHOLE_ANSWER))


class RequestMetrics:
    """The counts of all requests, and of each model."""

    def __init__(self) -> None:
        self.requests: Counter[RequestLabels] = Counter()
        self.by_model: defaultdict[str, ModelMetrics] = defaultdict(ModelMetrics)
