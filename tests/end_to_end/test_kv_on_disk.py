"""What a person sees of the KV on disk, of a node whose model really writes and reads KV."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run
from tests.processes import eventually, running_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.processes import RunningNode

SYSTEM = "you are kind and brief and you count what you see " * 40


@pytest.fixture
def node(nano: Path, tmp_path: Path) -> Iterator[RunningNode]:
    kv = f'path = "{tmp_path / "kv"}"\ndisk_free_min = "1MB"\ndisk_cache_bytes = "1GB"'
    with running_node(tmp_path, {"nano": nano}, cache=kv) as running:
        running.wait_until_ready()
        yield running


def chat(node: RunningNode) -> None:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "hi"}]
    node.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 1})


def disk_of(node: RunningNode) -> dict[str, Any]:
    found: dict[str, Any] = node.ask("/cache?model=nano").json["disk"]
    return found


@pytest.mark.full  # by default scripted children and a folder at rest prove the same
def test_kv_of_a_system_prompt_is_listed_read_after_a_restart_and_cleared(
    node: RunningNode, tmp_path: Path
) -> None:
    kv = tmp_path / "kv"
    chat(node)
    eventually(lambda: disk_of(node)["records"] > 0)
    (stored,) = node.ask("/cache/disk").json["stored"]
    assert stored["models"] == ["nano"]
    assert run("cache", "verify", "nano", "--path", str(kv)).code == 0
    pid = node.model("nano")["pid"]
    node.ask("/admin/models/nano/restart", method="POST")
    eventually(lambda: node.model("nano")["state"] == "ready" and node.model("nano")["pid"] != pid)
    chat(node)
    eventually(lambda: disk_of(node)["hits"] > 0)
    cache = node.ask("/cache?model=nano").json
    assert cache["hitsBySource"]["disk"] == 1
    assert cache["cachedTokensBySource"]["disk"] >= 256
    assert node.ask("/admin/requests").json["recent"][0]["diskTokens"] >= 256
    assert run("cache", "clear", "--path", str(kv)).code == 75
    assert json.loads(run("cache", "clear", "--json", "--url", node.url).said)["cleared"] == [
        "nano"
    ]
    assert node.ask("/cache/disk").json["stored"] == []
    eventually(lambda: disk_of(node)["records"] == 0)
