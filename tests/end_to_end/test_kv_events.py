"""An outside reader of KV events has exactly the blocks that `/cache` reports, of real models."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.kv_event_reader import Subscriber
from tests.processes import eventually, running_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.processes import RunningNode

BLOCK = 256
TEXT = "you are kind and brief and you count what you see "


def free_endpoint() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


class FollowedNode:
    """A node of one model, and a subscriber of the model's events."""

    def __init__(self, node: RunningNode, subscriber: Subscriber) -> None:
        self.node = node
        self.subscriber = subscriber

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.node.ask("/cache?model=nano").json["kvEvents"]
        return found

    def follow(self, blocks: int | None = None) -> None:
        self.subscriber.follow(self.report, blocks)

    def complete(self, prompt: str) -> list[int]:
        """Have a prompt read; return its tokens."""
        body = {"model": "nano", "prompt": prompt}
        assert self.node.ask("/v1/completions", body | {"max_tokens": 1}).status == 200
        tokens: list[int] = self.node.ask("/tokenize", body).json["tokens"]
        return tokens

    def resident(self, tokens: list[int]) -> int:
        self.follow()
        return self.subscriber.blocks.resident(tokens)

    def kill_child(self) -> None:
        pid = self.node.model("nano")["pid"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.node.model("nano")["pid"] not in (None, pid))
        eventually(lambda: self.node.model("nano")["state"] == "ready")


@pytest.fixture
def more() -> str:
    """What the model's section has besides."""
    return ""


@pytest.fixture
def cache() -> str:
    """The section `[cache]`."""
    return "disk = false"


@pytest.fixture
def followed(nano: Path, tmp_path: Path, more: str, cache: str) -> Iterator[FollowedNode]:
    live, replay = free_endpoint(), free_endpoint()
    keys = f'kv_events = "{live}"\nkv_events_replay = "{replay}"\n{more}'
    with (
        running_node(tmp_path, {"nano": nano}, extra=keys, cache=cache) as node,
        Subscriber(live, replay) as subscriber,
    ):
        node.wait_until_ready()
        yield FollowedNode(node, subscriber)


@pytest.mark.full
@pytest.mark.parametrize("more", ["", "ranks = 2"])
def test_a_reader_follows_prompts_a_gap_a_killed_process_and_a_clear(
    followed: FollowedNode,
) -> None:
    first = followed.complete(TEXT * 40)
    assert followed.resident(first) == len(first) // BLOCK * BLOCK > BLOCK
    second = followed.complete("other " + TEXT * 40)
    while followed.subscriber.live(0.3):
        pass  # lost
    third = followed.complete("third " + TEXT * 40)
    for tokens in (first, second, third):
        assert followed.resident(tokens) == len(tokens) // BLOCK * BLOCK
    sequence = followed.subscriber.blocks.last
    followed.kill_child()
    followed.follow(0)
    assert followed.subscriber.blocks.last > sequence
    assert followed.resident(followed.complete(TEXT * 40)) == len(first) // BLOCK * BLOCK
    followed.node.ask("/cache", method="DELETE")
    followed.follow(0)


@pytest.mark.full
@pytest.mark.parametrize("more", ['cache_bytes = "1MB"'])
def test_a_reader_follows_evictions(followed: FollowedNode) -> None:
    prompts = [followed.complete(f"{number} " + TEXT * 40) for number in range(30)]
    assert followed.resident(prompts[-1]) > 0
    assert followed.resident(prompts[0]) == 0


@pytest.mark.full
@pytest.mark.parametrize("cache", ['path = "kv"\ndisk_free_min = "1MB"\ndisk_cache_bytes = "1GB"'])
def test_kv_that_is_found_on_disk_is_published(followed: FollowedNode) -> None:
    tokens = followed.complete(TEXT * 40)
    followed.complete(TEXT * 40)  # what is used again is written
    eventually(lambda: followed.node.ask("/cache?model=nano").json["disk"]["records"] > 0)
    followed.kill_child()
    followed.follow(0)
    followed.complete(TEXT * 40)
    assert followed.node.ask("/cache?model=nano").json["hitsBySource"]["disk"] == 1
    assert followed.resident(tokens) == len(tokens) // BLOCK * BLOCK
