"""Crashes, failures and clients that leave in the middle."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.commands import command
from tests.front.asking import Serve, asked, model
from tests.supervisor_harness import PATIENT, Fifo, kill_worker, soon

EMPTY_DELTA = b'"delta":{},"finish_reason":null}'
"""What a chat stream says while its model works, and has no output."""

# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_crash_is_a_pause_to_the_client(serve: Serve, tmp_path: Path, stream: bool) -> None:
    front = await serve("--die-after-tokens", "2", "--once", tmp_path / "once")
    answer = await front.chat("one two three", stream=stream)
    assert (answer.status, answer.text) == (200, "one two three")
    last = answer.events[-2] if stream else answer.json
    assert last["choices"][0]["finish_reason"] == "stop"
    if not stream:
        assert answer.json["usage"]["completion_tokens"] == 3
    health = (await front.ask("/health")).json
    assert health["metrics"]["totalRequests"] == 1
    assert health["metrics"]["requestsInFlight"] == 0
    entry = health["models"]["m"]
    assert (entry["restarts"], entry["resumes"]) == (1, 1)
    assert entry["last_exit"]["how"] == "killed by SIGKILL"
    shown = await command("status", "--url", str(front.client.make_url("")))
    assert "m: last restart: killed by SIGKILL" in shown.said
    assert entry["health"]["errorRate"] == 0


async def test_a_crash_without_a_successor_is_an_error_event_in_mid_stream(serve: Serve) -> None:
    front = await serve("--die-after-tokens", "2", policy=RestartPolicy(intensity=0))
    answer = await front.chat("one two three", stream=True)
    assert answer.status == 200
    *said, broken = answer.events
    assert answer.text == "one two"
    assert "[DONE]" not in answer.events
    assert all(event["choices"][0]["finish_reason"] is None for event in said)
    assert set(broken) == {"error"}
    assert {"message", "type", "code"} <= set(broken["error"])
    assert broken["error"]["code"] == "child_lost"
    assert "SIGKILL" in broken["error"]["message"]
    assert (await front.model())["health"]["errorRate"] == 1


async def test_a_crash_without_a_successor_is_a_503_where_nothing_was_sent(serve: Serve) -> None:
    front = await serve("--die-after-tokens", "2", policy=RestartPolicy(intensity=0))
    answer = await front.chat("one two three")
    assert (answer.status, answer.error["code"]) == (503, "child_lost")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await front.model())["health"]["errorRate"] == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_fells_every_child_is_refused_for_good(
    serve: Serve, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    caplog.set_level(logging.INFO)
    front = await serve("--die-after-tokens", "1", "--only", "poison")
    body = asked("a poison here", stream=stream)
    answer = await front.ask("/v1/chat/completions", body, X_Request_Id="request-9")
    if stream:
        assert (answer.status, answer.text) == (200, "a")
        assert answer.events[-1]["error"]["code"] == "poisoned_request"
        assert "[DONE]" not in answer.events
    else:
        assert (answer.status, answer.error["code"]) == (500, "poisoned_request")
        assert answer.headers["X-Should-Retry"] == "false"
    assert " request_id=request-9 " in caplog.text
    assert " outcome=failed error=poisoned_request " in caplog.text
    await front.reaches(state="ready", restarts=3)
    assert (await front.chat("one two three")).text == "one two three"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_whose_weights_were_replaced_ends_with_an_error(
    serve: Serve, tmp_path: Path, stream: bool, path: str
) -> None:
    plan = tmp_path / "plan"
    plan.write_text("--weights old --die-after-tokens 2\n--weights new")
    front = await serve("--plan", plan)
    turns = [{"role": "user", "content": "one two three"}]
    field = "input" if path.endswith("responses") else "messages"
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    answer = await front.ask(path, {field: turns, "stream": stream, "model": "m", limit: 9})
    told = answer.body.decode()
    assert "model files: old, now new" in told
    assert "three" not in told.replace("one two three", "")
    if stream:
        assert answer.status == 200
    else:
        assert answer.status == 500
        assert answer.headers["X-Should-Retry"] == "false"
    await front.reaches(state="ready", status="healthy")


async def test_choices_of_two_processes_with_other_weights_are_not_one_answer(
    serve: Serve, tmp_path: Path
) -> None:
    """The first choice is whole before the second has its turn, in the next process."""
    plan = tmp_path / "plan"
    plan.write_text("--weights old --die-after-tokens 0 --only second\n--weights new")
    front = await serve("--plan", plan, models=(model(max_concurrency=1),))
    body = {"model": "m", "prompt": ["first", "second one"]}
    answer = await front.ask("/v1/completions", body)
    assert (answer.status, answer.error["code"]) == (500, "weights_changed")


async def test_a_stream_that_waits_for_its_model_gets_events_while_that_loads(
    serve: Serve, tmp_path: Path, pace: Fifo, hold: Fifo
) -> None:
    hold.let(1)
    often = replace(PATIENT, keepalive_interval=0)
    front = await serve("--pace", pace.path, "--hold-load", hold.path, resume=often)
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    pace.let(1)
    await soon(stream.content.readuntil(b'"one"'))
    kill_worker((await front.model())["pid"])
    said = await soon(stream.content.readuntil(EMPTY_DELTA))
    assert b"two" not in said
    hold.let(1)
    pace.let(1)
    rest = await soon(stream.read())
    assert b'" two"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_empty_deltas_add_nothing_in_openais_library(serve: Serve, pace: Fifo) -> None:
    """The scripted child reads its prompt, which is progress, and then waits for leave to speak."""
    front = await serve("--pace", pace.path, resume=replace(PATIENT, keepalive_interval=0))
    raw = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    await soon(raw.content.readuntil(EMPTY_DELTA))
    raw.close()
    await front.reaches(running=0)
    url = str(front.client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="ignored") as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "one two"}], stream=True
        )
        pace.let(2)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(said) == "one two"


@pytest.mark.parametrize("stream", [True, False])
async def test_unavailable_of_a_child_is_a_503_with_retry_after(serve: Serve, stream: bool) -> None:
    answer = await (await serve("--unavailable")).chat("hello", stream=stream)
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


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


async def test_stream_client_leaves_while_child_restarts_frees_the_place(
    serve: Serve, pace: Fifo, hold: Fifo
) -> None:
    hold.let(1)
    front = await serve("--pace", pace.path, "--hold-load", hold.path)
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    pace.let(1)
    await soon(stream.content.readuntil(b'"one"'))
    kill_worker((await front.model())["pid"])
    await front.reaches(state="loading", running=1)
    stream.close()
    await front.reaches(running=0)
    hold.let(1)
    await front.reaches(state="ready", resumes=0)


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
