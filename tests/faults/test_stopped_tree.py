"""All processes of a node stopped for long, again and again: a laptop that sleeps, ctrl-Z."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
import psutil
import pytest

from tests.faults.stopped_node import COMMAND
from tests.processes import RunningNode, eventually, running_node
from tests.rounds import rounds
from tests.sse import chat_events_from, chat_text

STOPS: Final = rounds(1, 3, 20)
STALL: Final = 0.3
"""Seconds: the shortest patience here, of which every stop takes ten."""

STREAMS: Final = 8
WORDS: Final = [f"word{number}" for number in range(40 * STOPS)]
SUPERVISOR: Final = f"""
stall_timeout = {STALL}
load_stall_timeout = {STALL * 10}
"""


class Stream:
    """One streamed answer, read as it comes; `text` is what came so far."""

    def __init__(self) -> None:
        self.text = ""
        self.grew = asyncio.Event()

    async def read(self, url: str) -> None:
        body = {"messages": [{"role": "user", "content": " ".join(WORDS)}], "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/chat/completions", json=body) as response,
        ):
            async for chunk in chat_events_from(response.content):
                if text := chat_text(chunk):
                    self.text += text
                    self.grew.set()


async def stop_all(processes: Sequence[psutil.Process]) -> None:
    """Stop them for ten times the patience; the front goes on first."""
    for process in reversed(processes):
        process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(10 * STALL)  # this is the fault itself
    for process in processes:
        process.send_signal(signal.SIGCONT)


async def stopped_again_and_again(node: RunningNode) -> list[Stream]:
    streams = [Stream() for _ in range(STREAMS)]
    reading = [asyncio.ensure_future(item.read(node.url)) for item in streams]
    family = [psutil.Process(node.process.pid), *node.children()]
    for _ in range(STOPS):
        for stream in streams:
            await stream.grew.wait()
            stream.grew.clear()
        await stop_all(family)
    await asyncio.gather(*reading)
    return streams


@pytest.mark.timeout(60 + 8 * STOPS)
@pytest.mark.full
async def test_a_stopped_tree_kills_no_process_and_loses_no_stream(
    nano: Path, tmp_path: Path
) -> None:
    with running_node(
        tmp_path, {"m": nano}, supervisor=SUPERVISOR, spares=1, command=COMMAND
    ) as node:
        node.wait_until_ready()
        eventually(lambda: bool(node.ask("/health").json["standby"]["waiting"]))
        before = {process.pid for process in node.children()}
        streams = await stopped_again_and_again(node)
        assert [stream.text for stream in streams] == [" ".join(WORDS)] * STREAMS
        assert {process.pid for process in node.children()} == before
        entry = node.model("m")
        assert (entry["restarts"], entry["resumes"], entry["last_exit"]) == (0, 0, None)
