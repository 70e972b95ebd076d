"""KV events over real sockets: replays, gaps, subscribers that lag, addresses that are taken."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from mlx_worker.child.kv_blocks import BlockIndex
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.supervisor.event_log import EventLog
from mlx_worker.supervisor.kv_events.feed import KvEventFeed, KvEventState
from mlx_worker.supervisor.kv_events.log import KvEventLog
from mlx_worker.supervisor.kv_events.publisher import WAITING_BATCHES, EventSockets
from tests.kv_event_reader import Subscriber
from tests.supervisor_harness import NOWHERE, kill_worker, planned, running, scripted, soon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.node import Node

PROMPT = " ".join(f"word{at}" for at in range(3 * CHUNK_TOKENS))
OTHER = " ".join(f"other{at}" for at in range(2 * CHUNK_TOKENS))


def free_endpoint() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


class Feed:
    """A log whose batches are published, and what fills the log."""

    def __init__(self, waiting: int = WAITING_BATCHES) -> None:
        self.endpoint, self.replay = free_endpoint(), free_endpoint()
        self.log = KvEventLog()
        self.index = BlockIndex()
        self.sockets = EventSockets(self.log, self.endpoint, self.replay, "topic", waiting)
        self.log.on_batch = self.sockets.send

    def add(self, *blocks: int) -> None:
        self.index.add(tuple(token for block in blocks for token in [block] * CHUNK_TOKENS))
        for report in self.index.reports():
            self.log.on_blocks(report)

    def report(self) -> dict[str, Any]:
        log = self.log
        return {
            "sequence": log.next_sequence - 1,
            "blocks": log.count,
            "digest": f"{log.digest:016x}",
        }


@pytest.fixture
async def feed() -> Any:
    feed = Feed()
    yield feed
    feed.sockets.close()


@pytest.fixture
def subscriber(feed: Feed) -> Iterator[Subscriber]:
    with Subscriber(feed.endpoint, feed.replay, "topic") as subscriber:
        yield subscriber


async def beside(call: Callable[..., Any], *given: Any) -> Any:
    """Run what waits for sockets beside the event loop that serves them."""
    return await soon(asyncio.to_thread(call, *given))


async def connected(feed: Feed, subscriber: Subscriber) -> None:
    """Return once the subscription has arrived: messages before it are lost."""
    while True:
        feed.add(feed.log.next_sequence)
        if await beside(subscriber.receive, 0.05):
            return


async def test_a_subscriber_that_missed_batches_finds_the_gap(
    feed: Feed, subscriber: Subscriber
) -> None:
    await connected(feed, subscriber)
    replays = subscriber.replays
    feed.add(1001)
    feed.add(1002)
    for _ in range(2):
        assert await beside(subscriber.live)  # lost
    feed.add(1001, 1003)
    await beside(subscriber.follow, feed.report)
    assert subscriber.replays > replays


async def test_a_replay_begins_where_it_is_asked_to(feed: Feed, subscriber: Subscriber) -> None:
    for block in range(40):
        feed.add(block)
    asked = await beside(subscriber.ask_from, 30)
    assert [number for number, _ in asked] == list(range(30, 40))
    assert await beside(subscriber.ask_from, 40) == []
    assert await beside(subscriber.ask_from, 1 << 63) == []


async def test_what_is_no_request_is_ignored(feed: Feed, subscriber: Subscriber) -> None:
    feed.add(1)
    for frames in ([b""], [b"", b"7"], [b"x", b"\0" * 8], [b"", b"\0" * 8, b""]):
        subscriber._replay.send_multipart(frames)
    assert len(await beside(subscriber.ask_from, 0)) == 1


async def test_a_subscriber_that_reads_nothing_delays_nobody_and_catches_up() -> None:
    """Some 7 MB, of which its sockets hold a part."""
    feed = Feed(waiting=4)
    with Subscriber(feed.endpoint, feed.replay, "topic", waiting=1) as subscriber:
        await connected(feed, subscriber)
        replays = subscriber.replays
        for batch in range(120):
            feed.index.clear()
            feed.add(*range(64 * batch, 64 * (batch + 1)))  # never waits
        while await beside(subscriber.receive, 0.05):
            pass
        feed.add(7)
        await beside(subscriber.follow, feed.report)
        assert subscriber.replays > replays
    feed.sockets.close()


async def test_a_client_that_reads_no_replay_delays_no_other(
    feed: Feed, subscriber: Subscriber
) -> None:
    for block in range(1000, 3000):
        feed.add(block)
    context = zmq.Context[zmq.Socket[bytes]]()
    deaf = context.socket(zmq.DEALER)
    deaf.set_hwm(1)
    deaf.connect(feed.replay)
    try:
        for _ in range(3):
            deaf.send_multipart([b"", bytes(8)])
        assert len(await beside(subscriber.ask_from, 0)) == feed.log.next_sequence
    finally:
        context.destroy(linger=0)


# --- a node with workers that have no model -----------------------------------------------


def events_of(model: ModelRuntime) -> dict[str, Any]:
    state = model.kv_events.state
    assert state is not None
    return {"sequence": state.sequence, "blocks": state.blocks, "digest": f"{state.digest:016x}"}


async def warm(node: Node, prompt: str) -> None:
    await soon(node.client.warm(node.primary, prompt))


async def test_numbers_go_on_when_a_process_dies_and_its_blocks_are_cleared() -> None:
    live, replay = free_endpoint(), free_endpoint()
    model = planned(kv_events=live, kv_events_replay=replay)
    async with running(model, launcher=scripted()) as node:
        with Subscriber(live, replay) as subscriber:
            served = node.primary
            await warm(node, PROMPT)
            await beside(subscriber.follow, lambda: events_of(served), 3)
            before, clears = subscriber.blocks.last, subscriber.blocks.clears
            kill_worker(served.child.status.pid)
            # A warmed prompt is warmed in the next process too, at once: no report need say 0.
            await beside(subscriber.await_clear, clears)
            await warm(node, OTHER)
            await beside(subscriber.follow, lambda: events_of(served), 5)
            assert subscriber.blocks.last > before
            await soon(node.client.clear(served))
            await beside(subscriber.follow, lambda: events_of(served), 0)


async def test_an_address_that_is_taken_is_named_and_tried_again() -> None:
    live, log, events = free_endpoint(), KvEventLog(), EventLog()
    context = zmq.Context[zmq.Socket[bytes]]()
    taken = context.socket(zmq.PUB)
    taken.bind(live)
    feed = KvEventFeed("model", log, events, bind_again=0.01)
    feed.apply(planned(kv_events=live).config)
    assert feed.state == KvEventState(0, 0, 0, f"{live}: Address already in use")
    context.destroy(linger=0)
    with Subscriber(live) as subscriber:
        while not await beside(subscriber.live, 0.05):
            log.clear()
    assert feed.state is not None
    assert feed.state.off == ""
    feed.apply(planned().config)
    assert feed.state is None


async def test_another_address_counts_from_the_reload_on_and_needs_no_new_process() -> None:
    first, second, replay = free_endpoint(), free_endpoint(), free_endpoint()
    async with running(planned(kv_events=first), launcher=scripted()) as node:
        await warm(node, PROMPT)
        pid = node.primary.child.status.pid
        node.reload([planned(kv_events=second, kv_events_replay=replay)], NOWHERE)
        with Subscriber(second, replay) as subscriber:
            await beside(subscriber.follow, lambda: events_of(node.primary), 3)
        assert node.primary.child.status.pid == pid
        node.reload([planned()], NOWHERE)
        assert node.primary.kv_events.state is None
        with socket.create_server(("127.0.0.1", int(first.rpartition(":")[2]))):
            pass  # the address is free again


async def test_a_model_without_the_key_publishes_nothing_and_its_process_reports_nothing() -> None:
    async with running(launcher=scripted()) as node:
        await warm(node, PROMPT)
        assert node.primary.kv_events.state is None
        assert node.primary.child.kv_log.next_sequence == 0
