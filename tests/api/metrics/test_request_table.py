"""The table of requests: one row for each request, and no more memory for any number of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from mlx_worker.api.metrics.request_table import RequestTable, live_state
from mlx_worker.api.request_record import Outcome, RequestRecord
from mlx_worker.errors import RequestNotFound

if TYPE_CHECKING:
    from aiohttp import web

    from mlx_worker.errors import RequestCancelled
    from mlx_worker.supervisor.requests.generation import Generation

MANY = 10_000


class Live:
    """A request that takes note of its cancellation."""

    def __init__(self, name: str = "same", *, is_complete: bool = False) -> None:
        self.request = named(name)
        self.is_complete = is_complete
        self.is_cancelled = False

    def snapshot(self, outcome: Outcome = "cancelled") -> RequestRecord:
        return RequestRecord(
            request=self.request,
            dialect="chat",
            model="m",
            outcome=outcome,
            error="",
            status=None,
            warnings=[],
            prompt=None,
            cache_hit=None,
            generations=[],
            began=1.0,
            accepted=None,
            ended=3.0,
        )

    def cancel(self, error: RequestCancelled | None = None) -> bool:
        self.is_cancelled = error is None
        return not self.is_complete


def named(name: str, **headers: str) -> web.Request:
    return make_mocked_request("POST", "/v1/chat/completions", {"X-Request-Id": name, **headers})


def begin(table: RequestTable, live: Live) -> str:
    return table.begin(live.request, live)


def test_request_table_repeated_id_gets_rows_of_its_own() -> None:
    table = RequestTable()
    first, second = Live(), Live()
    ids = [begin(table, first), begin(table, second)]
    assert ids[0] == "same"
    assert len(set(ids)) == 2
    table.cancel(ids[1])
    assert (first.is_cancelled, second.is_cancelled) == (False, True)
    table.end(ids[0], first.snapshot("success"))
    assert begin(table, Live()) not in ids
    assert [row.id for row in table.rows().recent] == ["same"]


def test_request_table_client_cannot_take_anothers_id() -> None:
    """The number behind a repeated id may be in an id that a client has chosen."""
    table = RequestTable()
    begin(table, Live("a~2"))
    ids = [begin(table, Live("a")) for _ in range(3)]
    assert len({*ids, "a~2"}) == 4


def test_request_table_many_requests_keep_the_last() -> None:
    table = RequestTable()
    live = Live()
    for _ in range(MANY):
        table.end(last := begin(table, live), live.snapshot("success"))
    rows = table.rows()
    assert rows.live == []
    assert len(rows.recent) == 100
    assert rows.recent[0].id == last
    assert len({row.id for row in rows.recent}) == len(rows.recent)
    assert table.is_idle
    assert table.changes == 2 * MANY


def test_request_table_lists_the_newest_first() -> None:
    table = RequestTable()
    lives = [Live(name) for name in "abc"]
    for live in lives:
        begin(table, live)
    assert [row.id for row in table.rows().live] == ["c", "b", "a"]
    for live, name in zip(lives[:2], "ab", strict=True):
        table.end(name, live.snapshot("failed"))
    assert [row.id for row in table.rows().live] == ["c"]
    assert [(row.id, row.state) for row in table.rows().recent] == [
        ("b", "failed"),
        ("a", "failed"),
    ]


@pytest.mark.parametrize("id_", ["unknown", "ended", "complete"])
def test_request_table_cancel_of_what_has_ended_is_refused(id_: str) -> None:
    table = RequestTable()
    ended = Live("ended")
    table.end(begin(table, ended), ended.snapshot())
    begin(table, Live("complete", is_complete=True))
    with pytest.raises(RequestNotFound, match=id_):
        table.cancel(id_)


def test_request_table_row_has_the_session_that_the_client_named() -> None:
    table = RequestTable()
    for headers in ({}, {"X-Session-Id": "mine"}):
        live = Live()
        live.request = named("r", **headers)
        begin(table, live)
    assert [row.session for row in table.rows().live] == ["mine", None]


NEW: dict[str, Any] = {"is_resuming": False, "first_token_at": None, "handed_over": []}
GIVEN = NEW | {"handed_over": [1.0]}
TALKING = GIVEN | {"first_token_at": 2.0}


@pytest.mark.parametrize(
    ("choices", "state"),
    [
        ([], "waiting"),
        ([NEW], "waiting"),
        ([NEW, GIVEN], "prefill"),
        ([GIVEN, TALKING], "generating"),
        ([TALKING, GIVEN | {"is_resuming": True}], "resuming"),
    ],
)
def test_live_state_is_that_of_the_furthest_choice(
    choices: list[dict[str, Any]], state: str
) -> None:
    generations = [cast("Generation", SimpleNamespace(**choice)) for choice in choices]
    assert live_state(generations) == state
