"""The one stream of the dashboard: events, log lines, reports and the table of requests."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.dashboard.report import DASHBOARD_EVENTS
from tests.front.asking import Serve, asked
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from tests.front.asking import Front


class Reader:
    """A tab that reads the stream."""

    def __init__(self, stream: ClientResponse) -> None:
        self._stream = stream

    async def next(self) -> tuple[str, Any]:
        """The next event: its name, and its data."""
        block = (await soon(self._stream.content.readuntil(b"\n\n"))).decode()
        fields = dict(line.split(": ", 1) for line in block.strip().split("\n"))
        name, data = fields.get("event", "message"), json.loads(fields["data"])
        # Only events move the place at which a reader begins again.
        assert ("id" in fields) == (name == "message")
        return name, data

    async def until(self, name: str) -> Any:
        while (event := await self.next())[0] != name:
            pass
        return event[1]

    def close(self) -> None:
        self._stream.close()


async def watch(front: Front, query: str = "") -> Reader:
    return Reader(await soon(front.open(f"/admin/watch?{query}")))


def newest_event(front: Front) -> int:
    return front.node.events.newest


async def test_watch_without_logs_has_no_log_lines(serve: Serve) -> None:
    front = await serve("--write", "hello from a child")
    reader = await watch(front)
    names = Counter([(await reader.next())[0] for _ in range(newest_event(front) + 2)])
    assert set(names) == {"message", "report"}
    reader.close()


async def test_watch_has_the_lines_of_a_model_with_their_own_ids(serve: Serve) -> None:
    front = await serve("--write", "hello from a child")
    reader = await watch(front, "logs=m")
    line = await reader.until("log")
    listed = (await front.ask("/admin/logs?model=m")).json["lines"]
    assert line == next(other for other in listed if other["id"] == line["id"])
    reader.close()
    last = listed[-1]["id"]
    reader = await watch(front, f"logs=m&logs_after={last - 1}")
    assert (await reader.until("log"))["id"] == last
    reader.close()


async def test_watch_has_the_lines_of_the_node_as_they_come(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mlx_worker")
    front = await serve()
    reader = await watch(front, "logs=*")
    await reader.until("report")
    await front.ask("/v1/chat/completions", asked("one"), X_Request_Id="request-5")
    while "request_id=request-5" not in (await reader.until("log"))["text"]:
        pass
    reader.close()


async def test_watch_has_the_table_of_requests_after_a_report(serve: Serve) -> None:
    front = await serve()
    await front.chat("one two")
    reader = await watch(front, "requests=1")
    await reader.until("report")
    name, table = await reader.next()
    assert (name, table) == ("requests", (await front.ask("/admin/requests")).json)
    await front.ask("/v1/chat/completions", asked("one"), X_Request_Id="later")
    while (await reader.until("requests"))["recent"][0]["id"] != "later":
        pass
    reader.close()


async def test_watch_does_not_repeat_a_table_that_has_not_changed(serve: Serve) -> None:
    front = await serve()
    reader = await watch(front, "requests=1")
    await reader.until("requests")
    for _ in range(2):
        front.node.events.record("level", shown_from="info")
        assert (await reader.next())[0] == "message"
        assert (await reader.next())[0] == "report"
    reader.close()


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("logs=", "logs"),
        ("logs=missing", "logs"),
        ("logs=m&logs_after=x", "logs_after"),
        ("requests=yes", "requests"),
        ("after=-1", "after"),
    ],
)
async def test_watch_unknown_value_is_a_400_in_words(serve: Serve, query: str, param: str) -> None:
    front = await serve()
    answer = await front.ask(f"/admin/watch?{query}")
    assert (answer.status, answer.error["param"]) == (400, param)
    assert answer.error["message"].startswith(f"{param}: ")


async def test_watch_burst_of_events_is_few_reports(serve: Serve) -> None:
    """All events come, once and in order; reports do not come with each of them."""
    front = await serve()
    reader = await watch(front, f"after={newest_event(front)}")
    await reader.until("report")
    count = 100
    for number in range(count):
        front.node.events.record("level", shown_from="info", number=number)
        await asyncio.sleep(0)
    names: list[str] = []
    numbers: list[int] = []
    while len(numbers) < count:
        name, data = await reader.next()
        names.append(name)
        if name == "message":
            numbers.append(data["facts"]["number"])
    assert numbers == list(range(count))
    assert names.count("report") < count / 10
    reader.close()


async def test_watch_readers_share_what_is_formatted(serve: Serve) -> None:
    front = await serve()
    shared = front.client.server.app[DASHBOARD_EVENTS]  # type: ignore[attr-defined]
    assert shared.report() is shared.report()
    before = shared.report()
    front.node.events.record("level", shown_from="info")
    assert shared.report() is not before
    first = shared.requests()
    assert first is shared.requests()
    await front.chat("one")
    assert shared.requests() is not first
