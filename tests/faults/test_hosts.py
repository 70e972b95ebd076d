"""A model over two hosts in a whole node: the same words as alone, through every loss of a host.

The other host is a network namespace. A pipeline split gives the bits of one process.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import psutil
import pytest

from tests.documented_commands import ROOT
from tests.namespaces import HostNamespace, host_namespaces
from tests.processes import COMMAND, RunningNode, eventually, has_ended, running_node
from tests.sse import chat_events_from, chat_text
from tests.synthetic_models import WORDS, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.full

STALL: Final = 5
SUPERVISOR: Final = f"""
stall_timeout = {STALL}
load_stall_timeout = 60
backoff_initial = 0.1
backoff_max = 0.5
max_restarts = 100000
max_crashes = 100
"""
ASKED: Final = {
    "messages": [{"role": "user", "content": " ".join(WORDS * 4)}],
    "max_tokens": 120,
    "temperature": 0.8,
    "seed": 5,
}
SOME_EVENT: Final = 10
"""Events of the stream that have been read by then."""


@pytest.fixture(scope="module")
def studio2() -> Iterator[HostNamespace]:
    with host_namespaces(1) as (host,):
        yield host


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("pipelined", tmp_path_factory.mktemp("models") / "pipelined")


def over_hosts(host: HostNamespace, split: str = "pipeline") -> str:
    return f'hosts = ["here", "studio2"]\nsplit = "{split}"\n{host.table()}'


@pytest.fixture(scope="module")
def node(
    studio2: HostNamespace, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningNode]:
    with running_node(
        tmp_path_factory.mktemp("hosts"),
        {"one": folder, "two": folder},
        supervisor=SUPERVISOR,
        extra={"one": "", "two": over_hosts(studio2)},
    ) as running:
        running.wait_until_ready()
        yield running
    eventually(lambda: not studio2.processes())


def nothing(_events: int) -> None:
    """Leave the node alone."""


async def streamed(
    node: RunningNode, model: str, on_event: Callable[[int], None] = nothing, **more: Any
) -> str:
    """The text of a streamed request; `on_event` is told how far the stream is."""
    text, events = "", 0
    body = {**ASKED, "model": model, "stream": True, **more}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{node.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        async for chunk in chat_events_from(response.content):
            events += 1
            on_event(events)
            text += chat_text(chunk)
    return text


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> str:
    text = asyncio.run(streamed(node, "one"))
    assert len(text.split()) > 60
    return text


def is_ready(node: RunningNode) -> bool:
    entry = node.model("two")
    return entry["state"] == "ready" and len(entry["ranks"]) == 2


def parts_of(node: RunningNode) -> dict[str, psutil.Process]:
    """The processes of the model "two": here and on the other host."""
    eventually(lambda: is_ready(node))
    entries = node.ask("/admin/processes").json["processes"]
    kinds = {entry["kind"]: entry["pid"] for entry in entries if entry["model"] == "two"}
    return {kind: psutil.Process(kinds[kind]) for kind in ("model", "rank", "keeper")}


def test_model_over_two_hosts_says_where_its_ranks_are(
    node: RunningNode, studio2: HostNamespace
) -> None:
    parts = parts_of(node)
    ranks = node.model("two")["ranks"]
    assert [(rank["rank"], rank["host"]) for rank in ranks] == [(0, "here"), (1, "studio2")]
    there = {process.pid for process in studio2.processes()}
    assert there == {parts["rank"].pid, parts["keeper"].pid}
    memory = node.model("two")["memory"]
    assert memory["residentBytes"] == ranks[0]["residentBytes"]


@pytest.mark.parametrize("streams", [1, 8, 32])
def test_streams_over_two_hosts_say_what_one_process_says(node: RunningNode, streams: int) -> None:
    async def both() -> list[list[str]]:
        asked = [
            [{"role": "user", "content": f"{WORDS[i % len(WORDS)]} {WORDS[i // 2 % len(WORDS)]}"}]
            for i in range(streams)
        ]
        return [
            await asyncio.gather(*(streamed(node, model, messages=messages) for messages in asked))
            for model in ("one", "two")
        ]

    alone, together = asyncio.run(both())
    assert together == alone


def test_client_that_leaves_frees_the_row_on_both_hosts(node: RunningNode, expected: str) -> None:
    class Left(Exception):
        pass

    def leave(events: int) -> None:
        if events == SOME_EVENT:
            raise Left

    with pytest.raises(Left):
        asyncio.run(streamed(node, "two", leave))
    eventually(lambda: node.model("two")["running"] == 0)
    restarts = node.model("two")["restarts"]
    assert asyncio.run(streamed(node, "two")) == expected
    assert node.model("two")["restarts"] == restarts


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("part", ["rank", "keeper", "model"])
def test_end_or_stop_of_a_process_on_either_host_is_a_pause(
    node: RunningNode,
    studio2: HostNamespace,
    expected: str,
    part: str,
    number: signal.Signals,
) -> None:
    parts = parts_of(node)
    restarts = node.model("two")["restarts"]

    def strike(events: int) -> None:
        if events == SOME_EVENT:
            os.kill(parts[part].pid, number)

    assert asyncio.run(streamed(node, "two", strike)) == expected
    # A stopped keeper holds no token up: its silence is noticed later.
    eventually(lambda: node.model("two")["restarts"] == restarts + 1)
    eventually(lambda: all(map(has_ended, parts.values())))
    parts = parts_of(node)
    there = {process.pid for process in studio2.processes()}
    assert there == {parts["rank"].pid, parts["keeper"].pid}


def test_pulled_cable_is_noticed_and_streams_go_on_once_it_is_back(
    node: RunningNode,
    studio2: HostNamespace,
    expected: str,
    record_property: Callable[[str, object], None],
) -> None:
    parts = parts_of(node)
    seen: dict[str, float] = {}

    def pull(events: int) -> None:
        if events == SOME_EVENT:
            studio2.pull_cable()
            seen["pulled"] = time.monotonic()

    async def watch() -> str:
        """Wait until the host is away, and plug the cable again."""
        while True:
            entry = await asyncio.to_thread(node.model, "two")
            if "noticed" not in seen and entry["state"] != "ready":
                seen["noticed"] = time.monotonic()
            if "cannot be reached" in entry["reason"]:
                studio2.plug_cable()
                seen["back"] = time.monotonic()
                return str(entry["reason"])
            await asyncio.sleep(0.05)

    async def run() -> tuple[str, str]:
        texts = await asyncio.gather(streamed(node, "two", pull), watch())
        return texts[0], texts[1]

    text, reason = asyncio.run(run())
    assert text == expected
    assert f"rank 1 on studio2: {studio2.address} cannot be reached" in reason
    record_property("noticed after", seen["noticed"] - seen["pulled"])
    eventually(lambda: all(map(has_ended, parts.values())))
    parts = parts_of(node)
    assert len(studio2.processes()) == 2


def test_cable_pulled_while_idle_ends_the_ranks_and_leaves_no_process(
    node: RunningNode,
    studio2: HostNamespace,
    expected: str,
    record_property: Callable[[str, object], None],
) -> None:
    parts = parts_of(node)
    pulled = time.monotonic()
    studio2.pull_cable()
    try:
        eventually(lambda: all(map(has_ended, parts.values())))
        record_property("idle ranks ended after", time.monotonic() - pulled)
        eventually(lambda: "cannot be reached" in node.model("two")["reason"])
        assert node.model("two")["state"] in ("backoff", "starting")
    finally:
        studio2.plug_cable()
    assert asyncio.run(streamed(node, "two")) == expected


def test_end_of_the_front_leaves_no_process_on_any_host(
    studio2: HostNamespace, folder: Path, tmp_path: Path
) -> None:
    with running_node(
        tmp_path, {"two": folder}, supervisor=SUPERVISOR, extra=over_hosts(studio2, "tensor")
    ) as node:
        node.wait_until_ready()
        parts = parts_of(node)
        assert asyncio.run(streamed(node, "two", max_tokens=5))
        node.process.kill()
        node.process.wait()
        eventually(lambda: all(map(has_ended, parts.values())))


def test_other_weights_on_a_host_are_refused_by_name(
    studio2: HostNamespace, folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    make("pipelined", models / "pipelined")
    with (models / "pipelined" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    extra = over_hosts(studio2) + f'models_dir = "{models}"\n'
    own = folder.parent
    with running_node(
        tmp_path,
        {"two": folder},
        text=text_of(own, extra),
    ) as node:
        eventually(lambda: "other files" in node.model("two")["reason"])
        reason = node.model("two")["reason"]
        assert "rank 1 has other files than rank 0: model.safetensors" in reason


def text_of(models_dir: Path, extra: str) -> str:
    return (
        f'[server]\nhost = "127.0.0.1"\nport = 0\nmodels_dir = "{models_dir}"\n'
        f'[supervisor]\nstandby = 0\n{SUPERVISOR}\n[cache]\ndisk = false\n[cpu]\nblas = "bundled"\n'
        f'[[models]]\nid = "two"\npath = "pipelined"\n{extra}'
    )


def test_part_without_room_on_its_host_is_refused_with_numbers(
    studio2: HostNamespace, folder: Path, tmp_path: Path
) -> None:
    extra = over_hosts(studio2) + "memory_limit = 1000000\n"
    with running_node(tmp_path, {"two": folder}, supervisor=SUPERVISOR, extra=extra) as node:
        eventually(lambda: "models may take" in node.model("two")["reason"])
        reason = node.model("two")["reason"]
        assert "rank 1: its part of the weights has" in reason
        assert "models may take 1.0 MB there" in reason


def test_page_of_two_macs_is_right_where_namespaces_are_the_macs(
    studio2: HostNamespace, folder: Path, tmp_path: Path
) -> None:
    """The configuration as the page shows it, with other names, in the order of the page."""
    page = (ROOT / "docs" / "how-to" / "two-macs.md").read_text(encoding="utf-8")
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    ssh = next(line for line in shown.splitlines() if line.startswith("run = "))
    copies = tmp_path / "copies"
    shutil.copytree(folder, copies / folder.name)
    walked = (
        shown.replace(ssh, f"run = {studio2.run}")
        .replace("10.0.0.1", studio2.address.rpartition(".")[0] + ".1")
        .replace("10.0.0.2", studio2.address)
        .replace("Qwen3-235B-A22B-4bit", folder.name)
        .replace("/Users/you/models", str(copies))
    )
    text = text_of(folder.parent, "").partition("[[models]]")[0] + walked
    file = tmp_path / "mlx-worker.toml"
    file.write_text(text)
    checked = subprocess.run([*COMMAND, "check", file], capture_output=True, text=True, check=True)
    assert "split over 2 hosts (tensor, ring)" in checked.stdout
    asked = subprocess.run(
        [*COMMAND, "doctor", "--hosts", "--json", "--config", file],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {
        finding["subject"]: finding
        for finding in json.loads(asked.stdout)["findings"]
        if finding["subject"].startswith("host ") or "studio2" in finding["found"]
    }
    assert set(found) == {"host here", "host studio2", "model big"}
    assert {finding["severity"] for finding in found.values()} == {"ok"}, found
    assert "each way" in found["host studio2"]["found"]
    with running_node(tmp_path, {}, text=text) as node:
        node.wait_until_ready()
        assert asyncio.run(streamed(node, "big", max_tokens=8))
        eventually(lambda: len(node.model("big")["ranks"]) == 2)
        keys = set(node.model("big")["ranks"][0])
        assert keys == {"rank", "host", "pid", "residentBytes", "deviceBytes"}
        names = [host["name"] for host in node.ask("/admin/config").json["config"]["hosts"]]
        assert names == ["here", "studio2"]
