"""What has happened, for page and commands: as a list, live, and the lines of the log."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse

from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.front.asking import Front, Serve, asked
from tests.supervisor_harness import Fifo, eventually, kill_worker, soon

SECRET = "sesame"
STREAM = "/admin/events/stream"


async def happened(front: Front, kind: str) -> list[dict[str, Any]]:
    events = (await front.ask("/admin/events")).json["events"]
    return [event for event in events if event["kind"] == kind]


async def next_event(stream: ClientResponse) -> dict[str, Any]:
    """The next event of a stream; comments are passed over."""
    while True:
        block = await soon(stream.content.readuntil(b"\n\n"))
        if block.startswith(b":"):
            continue
        id_, data = block.decode().strip().split("\n")
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert id_ == f"id: {event['id']}"
        return event


async def until(stream: ClientResponse, kind: str) -> dict[str, Any]:
    while (event := await next_event(stream))["kind"] != kind:
        pass
    return event


# --- events ---------------------------------------------------------------------------------


async def test_a_start_is_told_state_by_state(serve: Serve) -> None:
    front = await serve()
    states = await happened(front, "state")
    assert [state["facts"]["now"] for state in states] == ["starting", "loading", "ready"]
    assert [state["id"] for state in states] == sorted(state["id"] for state in states)
    assert {state["model"] for state in states} == {"m"}
    last = states[-1]["id"]
    assert (await front.ask(f"/admin/events?after={last}")).json == {"events": []}
    assert len((await front.ask(f"/admin/events?after={last - 1}")).json["events"]) == 1


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 40, "\u0663"])
async def test_a_number_that_is_none_is_a_400(serve: Serve, after: str) -> None:
    front = await serve()
    for path in ("/admin/events", STREAM, "/admin/logs", "/admin/logs/stream"):
        assert (await front.ask(f"{path}?after={after}")).status == 400
    answer = await front.ask(STREAM, Last_Event_ID="x")
    assert (answer.status, answer.error["param"]) == (400, "Last-Event-ID")


async def test_a_killed_child_is_a_crash_report_on_the_stream(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path, "--write", "last words of a child")
    events = await soon(front.open(STREAM))
    assert events.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    body = asked(f"{SECRET} two", stream=True)
    chat = await soon(front.open("/v1/chat/completions", body, X_Request_Id="request-7"))
    pace.let(1)
    await soon(chat.content.readuntil(SECRET.encode()))

    async def measured() -> bool:
        return (await front.model())["memory"]["residentBytes"] is not None

    await eventually(measured)
    pid = (await front.model())["pid"]
    kill_worker(pid)
    crash = await until(events, "crash")
    assert crash["model"] == "m"
    facts = crash["facts"]
    assert facts["signal"] == "SIGKILL"
    assert facts["exit_code"] is None
    assert facts["pid"] == pid
    assert facts["in_flight"] == ["request-7"]
    assert "last words of a child" in facts["lines"]
    assert facts["resident_bytes"] == 1 << 20
    assert facts["uptime_s"] > 0
    pace.let(1)
    resume = await until(events, "resume")
    assert resume["facts"] == {"request_id": "request-7", "after_tokens": 1, "crashes": 1}
    events.close()
    assert b"two" in await soon(chat.read())
    assert SECRET.encode() not in (await front.ask("/admin/events")).body


async def test_an_exit_has_its_status_and_no_signal(serve: Serve, tmp_path: Path) -> None:
    front = await serve("--exit-after-tokens", "1", "--once", tmp_path / "once")
    await front.chat("one two")
    (crash,) = await happened(front, "crash")
    assert (crash["facts"]["exit_code"], crash["facts"]["signal"]) == (3, None)


async def test_a_restart_that_was_asked_for_is_no_crash(serve: Serve) -> None:
    front = await serve()
    await front.ask("/admin/models/m/restart", method="POST")

    async def again() -> bool:
        states = [state["facts"]["now"] for state in await happened(front, "state")]
        return states.count("ready") == 2

    await eventually(again)
    assert await happened(front, "crash") == []


async def test_a_request_that_is_given_up_is_named(serve: Serve) -> None:
    policy = RestartPolicy(base=0.01, ceiling=0.01, intensity=3, period=600)
    front = await serve("--die-after-tokens", "1", "--only", "poison", policy=policy)
    body = asked("a poison here")
    await front.ask("/v1/chat/completions", body, X_Request_Id="request-9")
    (poison,) = await happened(front, "poison")
    assert poison["facts"] == {"request_id": "request-9", "crashes": 3}

    async def three_crashes() -> bool:  # the last is reaped when its request has its answer
        return len(await happened(front, "crash")) == 3

    await eventually(three_crashes)


async def test_a_reader_that_comes_again_goes_on_where_it_was(serve: Serve) -> None:
    front = await serve()
    first = await soon(front.open(STREAM))
    seen = await next_event(first)
    first.close()
    again = await soon(front.open(STREAM, Last_Event_ID=str(seen["id"])))
    assert (await next_event(again))["id"] == seen["id"] + 1
    again.close()


async def test_readers_do_not_keep_the_node_from_ending(serve: Serve) -> None:
    front = await serve()
    streams = [await soon(front.open(path)) for path in (STREAM, "/admin/logs/stream?model=m")]
    await soon(front.client.server.close())
    for stream in streams:
        await soon(stream.read())  # to its end


# --- log ------------------------------------------------------------------------------------


async def test_a_models_lines_outlive_its_process(serve: Serve) -> None:
    front = await serve("--write", "hello from a child")
    pid = (await front.model())["pid"]
    kill_worker(pid)
    await front.reaches(state="ready", restarts=1)

    async def both() -> bool:
        said = (await front.ask("/admin/logs?model=m")).json["lines"]
        return len([line for line in said if line["text"] == "hello from a child"]) == 2

    await eventually(both)
    lines = (await front.ask("/admin/logs?model=m")).json["lines"]
    assert lines[0]["pid"] == pid
    assert lines[-1]["pid"] == (await front.model())["pid"]
    assert (await front.ask("/admin/logs?model=nobody")).status == 404


async def test_the_nodes_own_log_can_be_read_along_and_its_level_set(serve: Serve) -> None:
    ours = logging.getLogger("mlx_worker")
    before = ours.level
    try:
        front = await serve()
        answer = await front.ask("/admin/logs/level", {"level": "info"}, method="PUT")
        assert (answer.status, answer.json) == (200, {"level": "info"})
        stream = await soon(front.open("/admin/logs/stream"))
        body = asked(SECRET)
        await front.ask("/v1/chat/completions", body, X_Request_Id="request-5")
        while "request_id=request-5" not in (line := await next_event(stream))["text"]:
            pass
        assert line["level"] == "info"
        stream.close()
        answer = await front.ask("/admin/logs/level", {"level": "error"}, method="PUT")
        assert answer.json == {"level": "error"}
        answer = await front.ask("/admin/logs/level", {"level": "loud"}, method="PUT")
        assert (answer.status, answer.error["param"]) == (400, "level")
        everything = (await front.ask("/admin/logs")).body
        assert b"request-5" in everything
        assert SECRET.encode() not in everything
    finally:
        ours.setLevel(before)
