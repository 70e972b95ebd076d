"""What a streamed request says while its model has not begun: real progress, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.config.schema import ServerConfig
from tests.dialects import ALL, CHAT, COMPLETIONS, MESSAGES, Dialect
from tests.front.asking import asked, model
from tests.front.early.reading import IDLE_LIMIT, PATIENCE, TEXT, Reader, opened
from tests.injected_time import now
from tests.rounds import variants
from tests.supervisor_harness import eventually, kill_worker

if TYPE_CHECKING:
    from tests.front.asking import Front
    from tests.front.early.conftest import ServeInTime
    from tests.sse import Event

BEGINS: dict[str, list[str]] = {
    "/v1/chat/completions": ["chat.completion.chunk"],
    "/v1/completions": ["text_completion"],
    "/v1/responses": ["response.created", "response.in_progress"],
    "/v1/messages": ["message_start"],
}
"""The events with which a stream begins, by type or object."""

FIRST_BYTE_TIMEOUT = 5.0
LOAD_WAIT = 30.0

every_dialect = pytest.mark.parametrize("dialect", ALL, ids=repr)
dialects = pytest.mark.parametrize("dialect", variants(ALL, [CHAT, MESSAGES]), ids=repr)


def kind_of(event: Event) -> str:
    return str(event.data.get("type") or event.data["object"])


# --- progress keeps a client ------------------------------------------------------------------


@every_dialect
async def test_idle_limit_outlasts_a_minute_of_loading(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    """Twice `load_wait`: the wait goes on as long as bytes are loaded."""
    front = await serve_in_time("--load-for", "60")
    reader = await opened(front, dialect)
    assert reader.response.status == 200
    assert dialect.read_stream(await reader.rest()).text == TEXT
    assert reader.seconds >= 60


@every_dialect
async def test_idle_limit_outlasts_a_minute_of_prefill(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--prefill-for", "60")
    reader = await opened(front, dialect)
    assert dialect.read_stream(await reader.rest()).text == TEXT
    assert reader.seconds >= 60


@dialects
async def test_idle_limit_outlasts_a_minute_in_the_queue(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    """Tokens of the request before are progress of the line."""
    alone = model(preload=False, max_concurrency=1)
    front = await serve_in_time("--every", "1", configured=alone)
    first = await opened(front, CHAT, "word " * 60)
    reader = await opened(front, dialect)
    assert (await front.model())["queueDepth"] == 1
    spoken = asyncio.create_task(first.rest())
    assert dialect.read_stream(await reader.rest()).text == TEXT
    await spoken
    assert reader.seconds >= 60


@dialects
async def test_progress_is_told_no_more_often_than_there_is_any(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    """The first report of loading is the begin, and the next ones, 20 s apart, an event each."""
    front = await serve_in_time("--load-for", "60", "--reports", "3")
    reader = await opened(front, dialect, limit=PATIENCE)
    events = await reader.rest()
    early = [at for at in reader.moments[1:] if at - reader.moments[0] < 60]
    begin = BEGINS[dialect.path]
    assert len(early) == len(begin) + 2
    assert [kind_of(event) for event in events[: len(begin)]] == begin
    assert dialect.read_stream(events).text == TEXT


# --- no progress, no bytes ----------------------------------------------------------------------


@every_dialect
async def test_no_progress_gets_no_byte_and_the_true_status(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--no-hello")
    reader = await opened(front, dialect, limit=PATIENCE)
    assert now() - reader.moments[0] >= LOAD_WAIT
    assert reader.response.status == 503
    assert "starting" in dialect.read_error(await reader.response.json())


@dialects
async def test_progress_that_stops_ends_in_silence_and_an_error_event(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--hang-in-load")
    reader = await opened(front, dialect, limit=PATIENCE)
    events = await reader.rest()
    *begin, error = events
    assert [kind_of(event) for event in begin] == BEGINS[dialect.path]
    assert reader.moments[1] - reader.moments[0] == pytest.approx(FIRST_BYTE_TIMEOUT, abs=1)
    assert reader.seconds >= LOAD_WAIT
    assert error
    assert "loading" in dialect.read_broken(events).message


async def test_turned_off_nothing_is_said_before_the_model_begins(
    serve_in_time: ServeInTime,
) -> None:
    off = ServerConfig(first_byte_timeout=0)
    front = await serve_in_time("--load-for", "20", server=off)
    reader = await opened(front, CHAT, limit=PATIENCE)
    assert now() - reader.moments[0] >= 20
    assert reader.response.headers["X-Cache-Hit"] == "false"
    assert CHAT.read_stream(await reader.rest()).text == TEXT


async def test_whole_answer_waits_for_load_wait_alone(serve_in_time: ServeInTime) -> None:
    front = await serve_in_time("--load-for", "60")
    sent = now()
    response = await front.open("/v1/chat/completions", asked(TEXT))
    assert response.status == 503
    assert response.headers["Retry-After"]
    assert now() - sent == pytest.approx(LOAD_WAIT, abs=1)


# --- what an early begin says -------------------------------------------------------------------


async def begun(front: Front, dialect: Dialect, text: str = TEXT) -> Reader:
    """Return a stream that has begun while its model loads."""
    reader = await opened(front, dialect, text)
    assert (await front.model())["state"] == "loading"
    return reader


@dialects
async def test_cache_hit_is_a_comment_after_an_early_begin(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--load-for", "8")
    early = await begun(front, dialect)
    said = dialect.read_stream(await early.rest())
    assert "X-Cache-Hit" not in early.response.headers
    assert early.response.headers["X-Model"] == "m"
    assert early.body.count(b": X-Cache-Hit: false\n\n") == 1
    later = await opened(front, dialect)
    assert dialect.read_stream(await later.rest()) == said
    assert later.response.headers["X-Cache-Hit"] == "false"
    assert b"X-Cache-Hit" not in later.body


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS], ids=repr)
async def test_fingerprint_is_null_until_a_process_has_begun(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--load-for", "8")
    first, *_, last, _ = await (await begun(front, dialect)).rest()
    later = await (await opened(front, dialect)).rest()
    assert first.data["system_fingerprint"] is None
    assert last.data["system_fingerprint"].startswith("fp_")
    assert {chunk.data["system_fingerprint"] for chunk in later[:-1]} == {
        last.data["system_fingerprint"]
    }


async def test_message_start_counts_nothing_before_the_prompt_was_read(
    serve_in_time: ServeInTime,
) -> None:
    front = await serve_in_time("--load-for", "8")
    start, *_, delta, _ = await (await begun(front, MESSAGES)).rest()
    assert start.data["message"]["usage"]["input_tokens"] == 0
    assert delta.data["usage"]["input_tokens"] == 3


async def test_choices_begin_early_together(serve_in_time: ServeInTime) -> None:
    front = await serve_in_time(
        "--load-for", "40", configured=model(preload=False, max_concurrency=2)
    )
    body = asked(TEXT, stream=True, n=3)
    async with asyncio.timeout(IDLE_LIMIT):
        response = await front.open("/v1/chat/completions", body)
    events = await Reader(response, [now()], IDLE_LIMIT).rest()
    said = dict.fromkeys(range(3), "")
    for event in events[:-1]:
        (choice,) = event.data["choices"]
        said[choice["index"]] += choice["delta"].get("content", "")
    assert said == dict.fromkeys(range(3), TEXT)


# --- refusals, crashes, clients that leave ------------------------------------------------------


@every_dialect
async def test_refusal_after_an_early_begin_is_an_error_event_and_is_logged(
    serve_in_time: ServeInTime, dialect: Dialect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mlx_worker")
    front = await serve_in_time("--load-for", "20", "--refuse")
    reader = await begun(front, dialect)
    events = await reader.rest()
    broken = dialect.read_broken(events)
    assert broken.text == ""
    assert "4096" in broken.message
    assert " status=200 outcome=client_error error=context_length_exceeded " in caplog.text
    table: Any = (await front.ask("/admin/requests")).json
    assert table["live"] == []
    assert (table["recent"][0]["status"], table["recent"][0]["error"]) == (
        200,
        "context_length_exceeded",
    )
    metrics = (await front.ask("/metrics")).body.decode()
    counts = [line for line in metrics.splitlines() if "mlx_worker_requests_total{" in line]
    (counted,) = counts
    assert 'outcome="client_error"' in counted
    assert (await front.model())["running"] == 0


@dialects
async def test_process_killed_before_the_first_token_loses_nothing(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--load-for", "20", "--prefill-for", "20")
    reader = await begun(front, dialect)
    events = []
    async for event in reader.events():
        events.append(event)
        if now() - reader.moments[0] > 25 and not (await front.model())["restarts"]:
            kill_worker((await front.model())["pid"])
            await front.reaches(restarts=1)
    undisturbed = dialect.read_stream(await (await opened(front, dialect)).rest())
    assert dialect.read_stream(events) == undisturbed
    assert (await front.model())["resumes"] == 1


@dialects
async def test_process_killed_while_it_loads_loses_nothing(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--load-for", "20")
    reader = await begun(front, dialect)
    kill_worker((await front.model())["pid"])
    assert dialect.read_stream(await reader.rest()).text == TEXT
    assert (await front.model())["restarts"] == 1


@dialects
async def test_client_that_leaves_after_an_early_begin_frees_its_place(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    front = await serve_in_time("--load-for", "60")
    reader = await begun(front, dialect)
    reader.response.close()
    await front.reaches(running=0, queueDepth=0)
    await eventually(lambda: has_ended(front, "cancelled"))


async def has_ended(front: Front, state: str) -> bool:
    table: Any = (await front.ask("/admin/requests")).json
    return not table["live"] and table["recent"][0]["state"] == state


@dialects
async def test_operator_cancels_a_request_that_waits_after_an_early_begin(
    serve_in_time: ServeInTime, dialect: Dialect
) -> None:
    """In the queue, where the request has no generation yet."""
    alone = model(preload=False, max_concurrency=1)
    front = await serve_in_time("--every", "1", configured=alone)
    first = await opened(front, CHAT, "word " * 60)
    reader = await opened(front, dialect)
    table: Any = (await front.ask("/admin/requests")).json
    row = table["live"][0]["id"]
    await front.ask(f"/admin/requests/{row}/cancel", method="POST")
    assert "operator" in dialect.read_broken(await reader.rest()).message
    first.response.close()
    await front.reaches(running=0, queueDepth=0)
