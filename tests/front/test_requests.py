"""The table of requests, and an operator who cancels: over sockets, with scripted children."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.dialects import ALL, Dialect
from tests.front.asking import Front, Serve, asked, model
from tests.sse import events_of
from tests.supervisor_harness import DEADLINE, PATIENT, Fifo, eventually, kill_worker, soon

if TYPE_CHECKING:
    from mlx_worker.config.schema import ModelConfig

SECRET = "sesame"
CHAT = "/v1/chat/completions"
TABLE = "/admin/requests"


async def rows(front: Front, kind: str = "live") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await front.ask(TABLE)).json[kind]
    return listed


async def reaches(front: Front, *states: str) -> list[dict[str, Any]]:
    """Wait until the rows of running requests have these states, and return them."""

    async def so() -> bool:
        return [row["state"] for row in await rows(front)] == list(states)

    await eventually(so)
    return await rows(front)


async def cancel(front: Front, id_: str) -> None:
    answer = await front.ask(f"{TABLE}/{quote(id_, safe='')}/cancel", method="POST")
    assert (answer.status, answer.json) == (200, {"id": id_, "cancelled": True})


async def is_free(front: Front) -> None:
    """Wait until no decode slot is taken and no request waits."""
    await eventually(lambda: has_free_slots(front))


async def has_free_slots(front: Front) -> bool:
    entry = await front.model()
    busy = front.node.models["m"].is_busy
    return not busy and (entry["running"], entry["queueDepth"]) == (0, 0)


# --- rows -----------------------------------------------------------------------------------


async def test_requests_row_follows_its_request(serve: Serve, pace: Fifo, hold: Fifo) -> None:
    front = await serve("--pace", pace.path, "--hold-start", hold.path)
    body = asked(f"{SECRET} two", stream=True)
    asking = asyncio.ensure_future(front.ask(CHAT, body, X_Request_Id="r-1", X_Session_Id="s-1"))
    (row,) = await reaches(front, "prefill")
    assert (row["id"], row["model"], row["dialect"], row["session"]) == ("r-1", "m", "chat", "s-1")
    assert (row["status"], row["error"], row["firstTokenSeconds"]) == (None, None, None)
    hold.let(1)
    pace.let(1)
    (row,) = await reaches(front, "generating")
    assert (row["promptTokens"], row["outputTokens"]) == (2, 1)
    assert 0 < row["firstTokenSeconds"] <= row["seconds"]
    pace.let(5)
    await asking
    assert await rows(front) == []
    (row,) = await rows(front, "recent")
    assert (row["state"], row["status"], row["outputTokens"]) == ("finished", 200, 2)
    assert SECRET.encode() not in (await front.ask(TABLE)).body


async def test_requests_row_of_a_refused_request_has_its_code(serve: Serve) -> None:
    front = await serve()
    await front.ask(CHAT, {"messages": []})
    (row,) = await rows(front, "recent")
    assert (row["state"], row["status"], row["error"]) == ("failed", 400, "invalid_request")
    assert row["model"] == ""


async def test_requests_row_resumes_with_its_request(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    asking = asyncio.ensure_future(front.chat("one two", stream=True))
    pace.let(1)
    await reaches(front, "generating")
    kill_worker((await front.model())["pid"])
    await reaches(front, "resuming")
    pace.let(5)
    assert (await asking).text == "one two"
    (row,) = await rows(front, "recent")
    assert (row["state"], row["resumed"], row["outputTokens"]) == ("finished", 1, 2)


async def test_requests_client_that_leaves_has_a_cancelled_row(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open(CHAT, asked("one two", stream=True)))
    stream.close()

    async def so() -> bool:
        return [(row["state"], row["error"]) for row in await rows(front, "recent")] == [
            ("cancelled", None)
        ]

    await eventually(so)


# --- cancel ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ALL, ids=repr)
async def test_requests_cancelled_stream_ends_with_an_error_event(
    serve: Serve, pace: Fifo, dialect: Dialect
) -> None:
    front = await serve("--pace", pace.path)
    body = dialect.body("one two three", stream=True)
    asking = asyncio.ensure_future(front.ask(dialect.path, body))
    pace.let(1)
    (row,) = await reaches(front, "generating")
    await cancel(front, row["id"])
    answer = await asking
    assert answer.status == 200
    broken = dialect.read_broken(events_of(answer.body))
    assert (broken.text, broken.message) == ("one", "an operator has cancelled the request")
    (ended,) = await rows(front, "recent")
    assert (ended["state"], ended["error"]) == ("cancelled", "cancelled_by_operator")
    pace.let(5)
    await is_free(front)
    metrics = (await front.ask("/metrics")).body.decode()
    (sample,) = (line for line in metrics.splitlines() if 'outcome="cancelled"' in line)
    assert sample.endswith(" 1.0")
    assert (await front.model())["health"]["errorRate"] == 0


@pytest.mark.parametrize("dialect", ALL, ids=repr)
async def test_requests_cancelled_whole_response_is_an_error_not_to_be_sent_again(
    serve: Serve, pace: Fifo, dialect: Dialect
) -> None:
    front = await serve("--pace", pace.path)
    asking = asyncio.ensure_future(front.ask(dialect.path, dialect.body("one two three")))
    pace.let(1)
    (row,) = await reaches(front, "generating")
    await cancel(front, row["id"])
    answer = await asking
    assert (answer.status, answer.headers["X-Should-Retry"]) == (500, "false")
    assert "Retry-After" not in answer.headers
    assert dialect.read_error(answer.json) == "an operator has cancelled the request"


ONE_SLOT: ModelConfig = model(max_concurrency=1)


async def test_requests_cancel_takes_a_request_out_of_the_queue(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path, models=(ONE_SLOT,))
    first = asyncio.ensure_future(front.chat("one two"))
    await reaches(front, "prefill")
    # All its choices wait for the slot, and are interrupted together.
    second = asyncio.ensure_future(front.chat("three", n=2))
    waiting, _ = await reaches(front, "waiting", "prefill")
    await cancel(front, waiting["id"])
    answer = await second
    assert (answer.status, answer.error["code"]) == (500, "cancelled_by_operator")
    pace.let(5)
    assert (await first).text == "one two"
    await is_free(front)


async def test_requests_cancel_while_the_model_loads(serve: Serve, hold: Fifo) -> None:
    patient = replace(PATIENT, load_wait=DEADLINE)
    lazy = (model(preload=False),)
    front = await serve("--hold-load", hold.path, models=lazy, resume=patient)
    asking = asyncio.ensure_future(front.chat("one"))
    (row,) = await reaches(front, "waiting")
    await cancel(front, row["id"])
    assert (await asking).error["code"] == "cancelled_by_operator"
    hold.let(1)


async def test_requests_cancel_ends_a_request_that_lost_its_process(
    serve: Serve, pace: Fifo, hold: Fifo
) -> None:
    front = await serve("--pace", pace.path, "--hold-load", hold.path, wait=False)
    hold.let(1)
    await front.reaches(state="ready")
    asking = asyncio.ensure_future(front.chat("one two"))
    pace.let(1)
    await reaches(front, "generating")
    kill_worker((await front.model())["pid"])
    (row,) = await reaches(front, "resuming")
    await cancel(front, row["id"])
    assert (await asking).error["code"] == "cancelled_by_operator"
    hold.let(1)


async def test_requests_repeated_id_cancels_the_one_row(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    same = "a/b?c%2F"
    first = asyncio.ensure_future(front.ask(CHAT, asked("one two"), X_Request_Id=same))
    await reaches(front, "prefill")
    second = asyncio.ensure_future(front.ask(CHAT, asked("one two"), X_Request_Id=same))
    newest, oldest = await reaches(front, "prefill", "prefill")
    assert oldest["id"] == same
    assert newest["id"].startswith(f"{same}~")
    await cancel(front, newest["id"])
    assert (await second).error["code"] == "cancelled_by_operator"
    pace.let(9)
    answer = await first
    assert (answer.status, answer.headers["X-Request-Id"]) == (200, same)


async def test_requests_cancel_of_what_has_ended_is_a_404(serve: Serve) -> None:
    front = await serve()
    await front.ask(CHAT, asked("one"), X_Request_Id="ended")
    for id_ in ("missing", "ended"):
        answer = await front.ask(f"{TABLE}/{id_}/cancel", method="POST")
        assert (answer.status, answer.error["code"]) == (404, "request_not_found")


async def test_requests_cancel_of_a_page_of_another_site_is_refused(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    asking = asyncio.ensure_future(front.chat("one"))
    (row,) = await reaches(front, "prefill")
    path = f"{TABLE}/{row['id']}/cancel"
    answer = await front.ask(path, method="POST", Sec_Fetch_Site="cross-site")
    assert (answer.status, answer.error["code"]) == (403, "cross_site")
    answer = await front.ask(TABLE, Host="evil.example", Sec_Fetch_Site="same-origin")
    assert (answer.status, answer.error["code"]) == (421, "unknown_host")
    pace.let(1)
    assert (await asking).text == "one"
