"""Count generation requests and their tokens since the start of the node.

Each request is counted once, at its end. `/health` counts requests in its own statistics.

[front]
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from mlx_worker.histogram import FIRST_TOKEN, WHOLE_ANSWER, Histogram
from mlx_worker.supervisor.requests.rate_allowance import Allowance

if TYPE_CHECKING:
    from mlx_worker.api.request_record import Outcome
    from mlx_worker.wire.parting import Parting


MIN_PREFILL_TOKENS: Final = 64
"""Computed tokens of a prompt whose prefill is counted: fewer take no longer than a decode step."""


UNKNOWN: Final = "unknown"
"""The part of a prompt with no known prompt of its session before it."""

MIN_LOST_TOKENS: Final = 64
"""Tokens of the last prompt that are lost with an event: fewer are read again in no time."""

EVENTS_AT_ONCE: Final = 10
"""Partings of a model that are events; then there are `EVENTS_EACH_SECOND`."""

EVENTS_EACH_SECOND: Final = 0.1


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
    `session_prompts` and `lost_tokens` are counted by the part that parts a prompt from the last
    one of its session: prompts, and tokens of those last ones; `shared_tokens` are the others.
    `disk_tokens` of the cached tokens were read from disk. `memory_hits` and `disk_hits` are
    requests with cached tokens of that source.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    disk_tokens: int = 0
    memory_hits: int = 0
    disk_hits: int = 0
    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    shared_tokens: int = 0
    session_prompts: Counter[str] = field(default_factory=Counter)
    lost_tokens: Counter[str] = field(default_factory=Counter)
    parting_events: Allowance = field(
        default_factory=lambda: Allowance(EVENTS_AT_ONCE, EVENTS_EACH_SECOND, time.monotonic)
    )
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN))
    duration: Histogram = field(default_factory=lambda: Histogram(WHOLE_ANSWER))

    def add_prompt(self, prompt: int, cached: int, disk: int) -> None:
        """Count a request's prompt tokens, how many were cached, and how many of those on disk."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.disk_tokens += disk
        self.memory_hits += cached > disk
        self.disk_hits += disk > 0

    def add_prefill(self, tokens: int, seconds: float) -> None:
        """Count the prefill of a prompt, if it was long enough to tell the speed of prefill."""
        if tokens >= MIN_PREFILL_TOKENS:
            self.prefill_tokens += tokens
            self.prefill_seconds += seconds

    def add_parting(self, parting: Parting | None) -> bool:
        """Count a prompt of a session; return True if its parting is to be an event.

        None: no earlier prompt of the session is known. An agent whose prompts part does so in
        every turn: the first ones are events, then one from time to time.
        """
        self.session_prompts[UNKNOWN if parting is None else parting.part] += 1
        if parting is None:
            return False
        self.shared_tokens += parting.shared
        if not parting.lost:
            return False
        self.lost_tokens[parting.part] += parting.lost
        return parting.lost >= MIN_LOST_TOKENS and self.parting_events.try_spend()


class RequestMetrics:
    """The counts of all requests, and of each model.

    `joined` counts requests, by model and dialect, that read the response of an earlier request.
    """

    def __init__(self) -> None:
        self.requests: Counter[RequestLabels] = Counter()
        self.joined: Counter[tuple[str, str]] = Counter()
        self.by_model: defaultdict[str, ModelMetrics] = defaultdict(ModelMetrics)
