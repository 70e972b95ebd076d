"""Keep a row of each generation request that runs or waits, and of the last ones that have ended.

A row has ids, models, counts and times, and never a word of a request or of its response. The rows
of ended requests are bounded, so requests of any number take no more memory.

A row's id is the request's id. Clients choose that id, and may repeat it: then the row's id has a
number behind it, so that a row, and what an operator cancels by it, is always one request.

[front]
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from mlx_worker.api.middleware.request_ids import client_session, request_id
from mlx_worker.errors import RequestNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from mlx_worker.api.request_record import LiveRequest, Outcome, RequestRecord
    from mlx_worker.supervisor.requests.generation import Generation

MAX_ENDED: Final = 100
"""Rows of ended requests that are kept: about 30 KB, which a reader gets with each table."""

DIGITS: Final = 4
"""Decimal places of seconds."""

LiveState = Literal["waiting", "prefill", "generating", "resuming"]
FinalState = Literal["finished", "cancelled", "failed"]
FINAL_STATES: Final = get_args(FinalState)


class RequestRow(msgspec.Struct, frozen=True, rename="camel"):
    """One request. `started_at` is in ms since the epoch, other times are in seconds.

    `model` is "" until the body is read. `resumed` counts the processes that continued the request
    after a crash. `status` and `error` are null until they are known. `session` is the client's own
    name for its session; null if the client gave none. `shared_tokens` of the prompt are those of
    the session's last prompt, and `parted` says what differs first; null if none is known.
    `clients` read the response now: 0 for a request that has ended, and for one that lingers after
    its client has left. `disk_tokens` of the cached ones were read from disk.
    """

    id: str
    model: str
    dialect: str
    state: LiveState | FinalState
    started_at: float
    seconds: float
    first_token_seconds: float | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    resumed: int
    status: int | None
    error: str | None
    session: str | None
    shared_tokens: int | None
    parted: str | None
    clients: int
    disk_tokens: int


class RequestRows(msgspec.Struct, frozen=True):
    """The requests that run or wait, and the last ones that have ended, each newest first."""

    live: list[RequestRow]
    recent: list[RequestRow]


@dataclass(frozen=True, slots=True)
class _RequestEntry:
    request: LiveRequest
    started_at: float


class RequestTable:
    """The rows of one node. `changes` counts the requests that began or ended."""

    def __init__(self, max_ended: int = MAX_ENDED) -> None:
        self._max_ended = max_ended
        self._live: dict[str, _RequestEntry] = {}
        self._ended: dict[str, RequestRow] = {}
        self._numbers = count(2)
        self.changes = 0

    @property
    def is_idle(self) -> bool:
        """True if no request runs or waits."""
        return not self._live

    def begin(self, request: web.Request, live: LiveRequest) -> str:
        """Add a request; return the id of its row."""
        own = id_ = request_id(request)
        while id_ in self._live or id_ in self._ended:
            id_ = f"{own}~{next(self._numbers)}"
        self._live[id_] = _RequestEntry(live, time.time() * 1000)
        self.changes += 1
        return id_

    def end(self, id_: str, record: RequestRecord) -> None:
        """Keep the row of a request that has ended, and drop the oldest one that is too many."""
        entry = self._live.pop(id_)
        self._ended[id_] = _row(id_, entry, record, _final_state(record.outcome))
        if len(self._ended) > self._max_ended:
            del self._ended[next(iter(self._ended))]
        self.changes += 1

    def cancel(self, id_: str) -> None:
        """End a request with an error in its dialect. Raises RequestNotFound."""
        entry = self._live.get(id_)
        if entry is None:
            raise RequestNotFound(f"no request with id {id_!r} runs or waits", param="id")
        if not entry.request.cancel():
            raise RequestNotFound(
                f"request {id_!r} has ended; its client still reads the response", param="id"
            )

    def rows(self) -> RequestRows:
        """Return all rows."""
        live = [self._live_row(id_, entry) for id_, entry in reversed(self._live.items())]
        return RequestRows(live, list(reversed(self._ended.values())))

    @staticmethod
    def _live_row(id_: str, entry: _RequestEntry) -> RequestRow:
        record = entry.request.snapshot()
        return _row(id_, entry, record, live_state(record.generations))


def live_state(generations: Sequence[Generation]) -> LiveState:
    """Return how far a request with these generations has come; the furthest one decides."""
    if any(generation.is_resuming for generation in generations):
        return "resuming"
    if any(generation.first_token_at is not None for generation in generations):
        return "generating"
    if any(generation.handed_over for generation in generations):
        return "prefill"
    return "waiting"


def _final_state(outcome: Outcome) -> FinalState:
    match outcome:
        case "success":
            return "finished"
        case "cancelled":
            return "cancelled"
        case _:
            return "failed"


def _row(
    id_: str, entry: _RequestEntry, record: RequestRecord, state: LiveState | FinalState
) -> RequestRow:
    prompt, first_token = record.prompt, record.seconds_to_first_token
    session, parting = client_session(record.request), prompt.parting if prompt else None
    return RequestRow(
        id=id_,
        model=record.model,
        dialect=record.dialect,
        state=state,
        started_at=entry.started_at,
        seconds=round(record.seconds, DIGITS),
        first_token_seconds=None if first_token is None else round(first_token, DIGITS),
        prompt_tokens=prompt.prompt if prompt else 0,
        cached_tokens=prompt.cached if prompt else 0,
        output_tokens=record.completion_tokens,
        resumed=record.resumes,
        status=record.status,
        error=record.error or None,
        session=None if session is None else session.id,
        shared_tokens=parting.shared if parting else None,
        parted=parting.place if parting else None,
        clients=0 if state in FINAL_STATES else record.clients,
        disk_tokens=prompt.disk if prompt else 0,
    )
