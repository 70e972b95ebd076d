"""The conversation in a terminal: `mlx-worker chat`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.commands import command
from tests.supervisor_harness import eventually, soon

if TYPE_CHECKING:
    from tests.front.asking import Serve, StandIn
    from tests.supervisor_harness import Fifo


async def test_a_chat_keeps_its_conversation(serve: Serve) -> None:
    front = await serve()
    said = "one two\nthree\n/quit\nnever asked\n"
    talked = await command("chat", "m", "--stats", "--url", front.url, said=said)
    assert talked.code == 0
    first, stats, second, _ = talked.said.splitlines()
    assert (first.strip(), second.strip()) == ("one two", "three")
    assert "2 tokens" in stats
    assert "first token" in stats
    assert (await front.model())["metrics"]["totalRequests"] == 2


async def test_a_chat_sends_what_was_asked_for_and_said_before(
    standing_in: StandIn,
) -> None:
    bodies = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        delta = {"delta": {"content": "Good."}, "finish_reason": None}
        text = f"data: {json.dumps({'choices': [delta]})}\n\ndata: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")

    async def listed(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "root": "m"}]})

    url = await standing_in(web.post("/v1/chat/completions", answer), web.get("/v1/models", listed))
    words = ("--system", "Be brief.", "--seed", "7", "--temperature", "0.5", "--max-tokens", "9")
    await command("chat", "m", *words, "--url", url, said="How?\n\nWhy?\n")
    last = bodies[-1]
    assert [message["content"] for message in last["messages"]] == [
        "Be brief.",
        "How?",
        "Good.",
        "Why?",
    ]
    wanted = {"model": "m", "seed": 7, "temperature": 0.5, "max_tokens": 9, "stream": True}
    assert {key: last[key] for key in wanted} == wanted


async def test_a_script_that_chats_ends_with_what_went_wrong(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "1")
    talked = await command("chat", "--url", front.url, said="one two\n")
    assert talked.code == 1
    assert (await command("chat", "lost", "--url", front.url, said="one\n")).code == 66


@pytest.mark.process
async def test_ctrl_c_cancels_the_answer_and_the_chat_goes_on(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    chat = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "mlx_worker", "chat", "--url", front.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert chat.stdin
    assert chat.stdout
    chat.stdin.write(b"one two three\n")
    pace.let(1)
    assert (await soon(chat.stdout.readexactly(3))).startswith(b"one")
    chat.send_signal(signal.SIGINT)
    await soon(chat.stdout.readuntil(b"[cancelled]\n"))

    async def idle() -> bool:
        return bool((await front.model())["metrics"]["requestsInFlight"] == 0)

    await eventually(idle)
    chat.stdin.write(b"four\n/quit\n")
    pace.let(8)
    said, _ = await soon(chat.communicate())
    assert said.strip() == b"four"
    assert chat.returncode == 0
