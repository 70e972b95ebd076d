"""Describe a generation request, for metrics, the log, traces and the table of requests.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from aiohttp import web

if TYPE_CHECKING:
    from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo, Usage
    from mlx_worker.errors import RequestCancelled
    from mlx_worker.supervisor.requests.generation import Generation

Outcome = Literal["success", "client_error", "refused", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request at a moment, for most readers its end; times are on `time.perf_counter`.

    `model` is "" where no model was found, and `error` "" where nothing went wrong. `status` is
    None where the client left before a status was sent. `prompt` and `cache_hit` are None until a
    model has begun. `accepted` is when the request was known to be valid and for which model.
    `ended` is the moment itself: a request that runs has no end yet. `dropped_lines` of the system
    prompt's head were left out. `joined` is the id of the request whose response this one has read;
    "" for a request with a response of its own.
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
    joined: str = ""

    @property
    def clients(self) -> int:
        """Return the number of clients that read the response; 0 for a request that lingers."""
        recorder = self.request.get(RECORDER)
        return 1 if recorder is None else recorder.clients

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


class LiveRequest(Protocol):
    """A request that has not ended."""

    def snapshot(self) -> RequestRecord:
        """Return what is known of the request now."""

    def cancel(self, error: RequestCancelled | None = None) -> bool:
        """End the request with an error; return False if its output is complete.

        Without an error, an operator has cancelled the request.
        """


class Recorder(Protocol):
    """Records the response of a request for clients that come again.

    `response_id` is the id that a client may ask for; "" if the dialect has no such ids.
    """

    response_id: str

    @property
    def clients(self) -> int:
        """Return the number of clients that read the response now."""

    def on_begin(self, live: LiveRequest) -> None:
        """Handle that the request is accounted for."""

    def on_parsed(self, request: GenerationRequest, info: ResponseInfo) -> None:
        """Handle what the request asks for; `info` has no fingerprint yet."""

    def on_end(self, record: RequestRecord) -> None:
        """Handle the end of the request."""


RECORDER: web.RequestKey[Recorder] = web.RequestKey("recorder", Recorder)
"""What records the response of a request; missing where the response ends with its client."""
