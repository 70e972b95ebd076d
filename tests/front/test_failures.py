"""Crashes, failures and clients that leave in the middle."""

import asyncio
from pathlib import Path

import pytest

from tests.front.asking import Serve, asked, model
from tests.scripted import Fifo, soon

# --- failures -------------------------------------------------------------------------------


async def test_a_crash_in_mid_stream_is_an_error_event_and_the_node_goes_on(
    serve: Serve, tmp_path: Path
) -> None:
    front = await serve("--die-after-tokens", "2", "--once", tmp_path / "once")
    answer = await front.chat("one two three", stream=True)
    assert answer.status == 200
    *said, broken = answer.events
    assert answer.text == "one two"
    assert "[DONE]" not in answer.events
    assert all(it["choices"][0]["finish_reason"] is None for it in said)
    assert set(broken) == {"error"}
    assert {"message", "type", "code"} <= set(broken["error"])
    assert broken["error"]["code"] == "child_lost"
    await front.reaches(state="ready", restarts=1)
    assert (await front.chat("one two three")).text == "one two three"
    health = (await front.ask("/health")).json
    assert health["metrics"]["totalRequests"] == 2
    assert health["metrics"]["requestsInFlight"] == 0


async def test_a_crash_in_an_answer_that_is_not_streamed_is_a_500(
    serve: Serve, tmp_path: Path
) -> None:
    front = await serve("--die-after-tokens", "2", "--once", tmp_path / "once")
    answer = await front.chat("one two three")
    assert answer.status == 500
    assert answer.error["code"] == "child_lost"
    assert int(answer.headers["Retry-After"]) > 0
    await front.reaches(state="ready", restarts=1)
    assert (await front.chat("one two three")).text == "one two three"


async def test_a_failure_in_mid_stream_is_an_error_event_and_the_child_lives(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "2")
    answer = await front.chat("one two three", stream=True)
    assert answer.text == "one two"
    assert answer.events[-1]["error"]["code"] == "inference_error"
    assert "[DONE]" not in answer.events
    assert (await front.chat("still here")).text == "still here"
    assert (await front.model())["restarts"] == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_child_refuses_has_its_true_status_also_for_a_stream(
    serve: Serve, stream: bool
) -> None:
    answer = await (await serve("--refuse")).chat("hello", stream=stream)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert "5000 tokens of 4096" in answer.error["message"]


# --- clients that leave ---------------------------------------------------------------------


async def test_a_client_that_leaves_its_stream_frees_the_row(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    pace.let(1)
    await soon(stream.content.readuntil(b'"one"'))
    assert (await front.model())["running"] == 1
    stream.close()
    await front.reaches(running=0)
    metrics = (await front.model())["metrics"]
    assert (metrics["requestsInFlight"], metrics["totalRequests"]) == (0, 0)


async def test_a_client_that_leaves_before_its_whole_answer_frees_the_row(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    asking = asyncio.ensure_future(front.chat("one two"))
    await front.reaches(running=1)
    asking.cancel()
    await asyncio.wait({asking})
    await front.reaches(running=0)
    pace.let(1)
    assert (await front.chat("next")).text == "next"


async def test_a_client_that_leaves_the_queue_frees_its_place_in_it(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1),))
    first = asyncio.ensure_future(front.chat("one"))
    await front.reaches(running=1)
    second = asyncio.ensure_future(front.chat("two"))
    await front.reaches(queueDepth=1)
    second.cancel()
    await asyncio.wait({second})
    await front.reaches(queueDepth=0)
    pace.let(1)
    assert (await soon(first)).text == "one"
