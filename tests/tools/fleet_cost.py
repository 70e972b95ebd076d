"""Print what many nodes cost the router in front of them, and what the router costs each node.

For contributors: `python -m tests.tools.fleet_cost [--nodes 50] [--seconds 15] [--rounds 3]`. The
nodes are whole fronts whose children have no model (the fake worker of the tests, in the same
process). Bytes are those on the sockets, heads of requests and answers included. CPU is user and
system time of a process, less what the process takes without requests: that holds on a busy machine
too. Ten nodes share a process in the measurement of many; the figures are per node.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import aiohttp
import click
import psutil
import uvloop
from aiohttp import web

from mlx_worker.app import build_app
from mlx_worker.child.kv_blocks import BlockIndex
from mlx_worker.config.schema import CacheConfig, Config, ModelConfig, SupervisorConfig
from mlx_worker.config.sizes import MemoryLimit
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.supervisor.kv_events.log import KvEventLog
from mlx_worker.supervisor.kv_events.publisher import EventSockets
from mlx_worker.wire.framing import encode, frames_from_child
from mlx_worker.wire.kv_blocks import KvBlocks
from tests.kv_event_reader import Subscriber
from tests.supervisor_harness import PLENTY
from tests.synthetic_models import make_nano
from tests.worker_in_memory import MemoryLauncher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

A_PROCESS: Final = 10
"""Nodes that share a process."""

PATHS: Final = (
    "/v1/models",
    "/v1/cluster/health",
    "/v1/cluster/health?brief",
    "/v1/cluster/cache",
    "/metrics",
)
POLLED: Final = ("/v1/cluster/health", "/v1/cluster/cache", "/metrics")
"""What the poller of many nodes asks each of them each second."""

ASKED: Final = 1000
"""Requests of one path in a round."""

PROMPTS: Final = 100
TOKENS: Final = 8192
VOCABULARY: Final = 151_936
"""The prompts whose blocks are published in a round, and the ids that their tokens may have."""

FRAMING: Final = 8 + 6
"""Bytes of a message beside its batch: the number, and what frames the parts."""

FLEETS: Final = (10, 100, 1000)


# --- nodes in processes of their own ------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """A process with nodes."""

    process: psutil.Process
    urls: Sequence[str]

    def cpu(self) -> float:
        """Return the seconds of CPU that the process has taken."""
        return sum(self.process.cpu_times()[:2])


@contextlib.contextmanager
def serving(count: int, pace: float = 0) -> Iterator[Served]:
    """Start nodes in one process, with seconds that each token takes, and end them."""
    command = [sys.executable, "-m", "tests.tools.fleet_cost"]
    with subprocess.Popen(
        [*command, "--serve", str(count), "--pace", str(pace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield Served(psutil.Process(process.pid), json.loads(process.stdout.readline()))
        assert process.stdin is not None
        process.stdin.close()


async def serve(count: int, pace: float) -> None:
    """Serve nodes until the end of standard input."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_nano(Path(folder))
        async with contextlib.AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(light_node(model, pace)) for _ in range(count)]
            click.echo(json.dumps(urls))
            await asyncio.to_thread(sys.stdin.read)


@contextlib.asynccontextmanager
async def light_node(model: Path, pace: float) -> AsyncIterator[str]:
    """Yield the URL of a whole front whose child has no model."""
    config = Config(
        models=(ModelConfig(id="m", path=str(model), default=True),),
        supervisor=SupervisorConfig(
            standby=0, drain_timeout=0, memory_limit=MemoryLimit(PLENTY), prevent_sleep="never"
        ),
        cache=CacheConfig(disk=False),
    )
    launcher = MemoryLauncher(("--every", str(pace)))
    runner = web.AppRunner(build_app(config, launcher=launcher), access_log=None)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        await runner.cleanup()


def free_endpoint() -> str:
    """Return an address that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


# --- one node -----------------------------------------------------------------------------


class Connection:
    """A bare connection to a node, that counts bytes in both directions."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._file = self._socket.makefile("rb")
        self.nbytes = 0

    def ask(self, path: str) -> None:
        """Send a GET as a router's library does, and read the answer."""
        head = f"GET {path} HTTP/1.1\r\nHost: node\r\nAccept: */*\r\nUser-Agent: router\r\n\r\n"
        self._socket.sendall(head.encode())
        length, size = 0, len(head)
        while (line := self._file.readline()) != b"\r\n":
            size += len(line)
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self._file.read(length)
        self.nbytes += size + len(line) + length

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()


def cost_of_paths(node: Served, rounds: int, idle: float) -> dict[str, tuple[float, float]]:
    """Return bytes and milliseconds of the node's CPU for one request of each path."""
    connection = Connection(node.urls[0])
    costs: dict[str, list[tuple[float, float]]] = {path: [] for path in PATHS}
    for _ in range(rounds):
        for path in PATHS:
            before, nbytes, began = node.cpu(), connection.nbytes, time.monotonic()
            for _ in range(ASKED):
                connection.ask(path)
            used = node.cpu() - before - idle * (time.monotonic() - began)
            costs[path].append(((connection.nbytes - nbytes) / ASKED, 1000 * used / ASKED))
    connection.close()
    return {path: (one[0][0], median(ms for _, ms in one)) for path, one in costs.items()}


def idle_share(served: Served, seconds: float) -> float:
    """Return the share of a core that a process takes without requests."""
    before = served.cpu()
    time.sleep(seconds)
    return (served.cpu() - before) / seconds


def cost_of_events(rounds: int) -> tuple[float, float, float]:
    """Return a block's bytes on a socket, and its milliseconds of CPU in the child and the front.

    Those of the front have the work of a subscriber's library in them, which is in this process.
    """
    endpoint, nbytes = free_endpoint(), 0
    index, log = BlockIndex(), KvEventLog()
    sockets = EventSockets(log, endpoint, None, "")
    frames = frames_from_child()
    children, fronts = [], []
    with Subscriber(endpoint, waiting=100_000) as subscriber:
        while subscriber.live(0.05) is None:  # until the subscription is there
            log.on_batch = sockets.send
            log.clear()
        for _ in range(rounds):
            prompts = [tuple(random.choices(range(VOCABULARY), k=TOKENS)) for _ in range(PROMPTS)]
            began = time.process_time()
            sent = []
            for prompt in prompts:
                index.add(prompt)
                sent.append(b"".join(map(encode, index.reports())))
            read = time.process_time()
            for data in sent:
                for report in frames.feed(data):
                    assert isinstance(report, KvBlocks)
                    log.on_blocks(report)
            children.append(read - began)
            fronts.append(time.process_time() - read)
            while message := subscriber.live(0.2):
                nbytes += len(message[1]) + FRAMING
    sockets.close()
    blocks = PROMPTS * TOKENS // CHUNK_TOKENS
    return (
        nbytes / blocks / rounds,
        1000 * median(children) / blocks,
        1000 * median(fronts) / blocks,
    )


# --- many nodes ---------------------------------------------------------------------------


async def poll(urls: Sequence[str], seconds: float) -> tuple[float, float]:
    """Ask each node each second; return the poller's share of a core, and its rounds a second."""
    answered = 0
    until = time.monotonic() + seconds

    async def follow(session: aiohttp.ClientSession, url: str, delay: float) -> None:
        nonlocal answered
        await asyncio.sleep(delay)
        while time.monotonic() < until:
            began = time.monotonic()
            for path in POLLED:
                async with session.get(url + path) as answer:
                    body = await answer.read()
                    if answer.content_type == "application/json":
                        json.loads(body)
            answered += 1
            await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        before, began = time.process_time(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for at, url in enumerate(urls):
                group.create_task(follow(session, url, at / len(urls)))
        took = time.monotonic() - began
        return (time.process_time() - before) / took, answered / took


def many(nodes: int, seconds: float, rounds: int) -> dict[str, float]:
    """Return what a poller of this number of nodes takes, and what it costs each of them."""
    with contextlib.ExitStack() as stack:
        counts = [min(A_PROCESS, nodes - at) for at in range(0, nodes, A_PROCESS)]
        served = [stack.enter_context(serving(count)) for count in counts]
        urls = [url for one in served for url in one.urls]
        results: list[dict[str, float]] = []
        for _ in range(rounds):
            before = sum(one.cpu() for one in served)
            time.sleep(seconds)
            idle = sum(one.cpu() for one in served) - before
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                poller, rate = runner.run(poll(urls, seconds))
            polled = sum(one.cpu() for one in served) - before - idle
            results.append(
                {
                    "poller, % of a core": 100 * poller,
                    "a node without requests, % of a core": 100 * idle / seconds / nodes,
                    "what the polls add to a node, % of a core": 100 * polled / seconds / nodes,
                    "nodes asked each second": rate,
                }
            )
    return {name: median(one[name] for one in results) for name in results[0]}


# --- the tables ---------------------------------------------------------------------------


def print_tables(nodes: int, seconds: float, rounds: int) -> None:
    """Measure, and print Markdown."""
    with serving(1) as node:
        paths = cost_of_paths(node, rounds, idle_share(node, seconds))
    nbytes, child, front = cost_of_events(rounds)
    click.echo("| one request each second | bytes/s | CPU of the node, ms/s |\n|---|---|---|")
    for path, (size, ms) in paths.items():
        click.echo(f"| `{path}` | {size:,.0f} | {ms:.2f} |")
    click.echo("\n| KV event | bytes | CPU of the child, ms | CPU of the front, ms |")
    click.echo(f"|---|---|---|---|\n| one block | {nbytes:,.0f} | {child:.3f} | {front:.3f} |\n")
    found = many(nodes, seconds, rounds)
    click.echo(f"| {nodes} nodes, `{'`, `'.join(POLLED)}` each second | |\n|---|---|")
    for name, value in found.items():
        click.echo(f"| {name} | {value:.2f} |")
    size = sum(paths[path][0] for path in POLLED)
    a_node = found["poller, % of a core"] / nodes
    click.echo("\n| nodes | requests/s | kB/s | poller, % of a core |\n|---|---|---|---|")
    for fleet in FLEETS:
        asked, kilobytes = fleet * len(POLLED), fleet * size / 1000
        click.echo(f"| {fleet:,} | {asked:,} | {kilobytes:,.0f} | {fleet * a_node:.1f} |")


@click.command()
@click.option("--nodes", default=50)
@click.option("--seconds", default=15.0)
@click.option("--rounds", default=3)
@click.option("--serve", "count", default=0, hidden=True)
@click.option("--pace", default=0.0, hidden=True)
def main(nodes: int, seconds: float, rounds: int, count: int, pace: float) -> None:
    """Print what a node costs its router, and what many cost."""
    if count:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(count, pace))
    else:
        print_tables(nodes, seconds, rounds)


if __name__ == "__main__":
    main()
