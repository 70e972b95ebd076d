"""What the page is made of, and what it reads."""

import json
import re
from os.path import normpath
from pathlib import PurePosixPath
from typing import Any

from aiohttp import ClientResponse

from tests.front.asking import Serve, asked
from tests.supervisor_harness import eventually, soon


def imported_by(name: str, source: str) -> list[str]:
    """Return the files that a module of the page imports."""
    paths = re.findall(r'from "(\.\.?/[^"]+)"', source)
    return [normpath(PurePosixPath(name).parent / path) for path in paths]


async def next_report(stream: ClientResponse) -> dict[str, Any]:
    while not (block := await soon(stream.content.readuntil(b"\n\n"))).startswith(b"event: report"):
        pass
    report: dict[str, Any] = json.loads(block.decode().partition("data: ")[2])
    return report


async def test_all_that_the_page_names_is_there(serve: Serve) -> None:
    front = await serve()
    index = await front.ask("/")
    assert index.headers["Content-Type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:href|src)="(page/[^"]+)"', index.body.decode())
    assert {"page/style/base.css", "page/main.js"} <= set(named)
    while named:
        file = await front.ask("/" + (name := named.pop()))
        assert file.status == 200, name
        assert file.headers["Content-Type"] != "application/octet-stream"
        named += imported_by(name, file.body.decode())
    assert (await front.ask("/page/none.js")).error["code"] == "no_such_path"
    assert (await front.ask("/page/..%2Fserver.py")).status == 404


async def test_nothing_of_it_comes_from_or_goes_anywhere_else(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//|style=|\son\w+=""", answer.body.decode())


async def test_what_has_not_changed_is_not_sent_again(serve: Serve) -> None:
    front = await serve()
    first = await front.ask("/page/main.js")
    again = await front.ask("/page/main.js", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    other = await front.ask("/page/main.js", If_None_Match='"other"')
    assert (other.status, other.body) == (200, first.body)


async def test_a_report_is_health_and_counts_of_metrics(serve: Serve) -> None:
    front = await serve()
    await front.chat("one two three")
    stream = await soon(front.open("/admin/watch"))
    report = await next_report(stream)
    stream.close()
    health = (await front.ask("/health")).json
    assert report["health"].keys() == health.keys()
    assert report["health"]["models"]["m"]["pid"] == health["models"]["m"]["pid"]
    assert report["health"]["models"]["m"]["metrics"]["generatedTokens"] == 3
    model = report["models"]["m"]
    assert model["firstToken"]["count"] == 1
    assert model["firstToken"]["seconds"] > 0
    assert report["at"] >= report["startedAt"]


async def test_reports_come_with_what_happens(serve: Serve) -> None:
    front = await serve()
    stream = await soon(front.open("/admin/watch"))
    assert (await next_report(stream))["health"]["models"]["m"]["state"] == "ready"
    await front.ask("/admin/models/m/restart", method="POST")

    async def is_reported() -> bool:
        entry = (await next_report(stream))["health"]["models"]["m"]
        return (entry["state"], entry["restarts"]) == ("ready", 1)

    await eventually(is_reported)
    stream.close()


async def test_events_come_once_and_from_where_they_are_wanted(serve: Serve) -> None:
    front = await serve()
    events = (await front.ask("/admin/events")).json["events"]
    stream = await soon(front.open(f"/admin/watch?after={events[-2]['id']}"))
    first = await soon(stream.content.readuntil(b"\n\n"))
    assert json.loads(first.decode().partition("data: ")[2]) == events[-1]
    assert (await soon(stream.content.readuntil(b"\n\n"))).startswith(b"event: report\n")
    stream.close()
    assert (await front.ask("/admin/watch?after=x")).status == 400


async def test_watchers_do_not_keep_the_node_from_ending(serve: Serve) -> None:
    front = await serve()
    stream = await soon(front.open("/admin/watch"))
    await soon(front.client.server.close())
    await soon(stream.read())  # to its end


async def test_the_hours_samples_begin_empty(serve: Serve) -> None:
    front = await serve()
    assert (await front.ask("/admin/history")).json == {"every": 10.0, "samples": []}


async def test_a_sample_is_what_came_since_the_last_one(serve: Serve) -> None:
    front = await serve()
    front.history.add_sample()
    await front.ask("/v1/chat/completions", asked("one two three four"))
    front.history.add_sample()
    front.history.add_sample()
    answer = (await front.ask("/admin/history")).json
    before, during, after = (sample["models"]["m"] for sample in answer["samples"])
    assert before["tokensPerSecond"] == after["tokensPerSecond"] == 0
    assert before["firstTokenP50"] is after["firstTokenP95"] is None
    assert during["tokensPerSecond"] > 0
    assert 0 < during["firstTokenP50"] <= during["firstTokenP95"]
    last = answer["samples"][-1]["id"]
    assert (await front.ask(f"/admin/history?after={last}")).json["samples"] == []
