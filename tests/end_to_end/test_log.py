"""The log of a whole node with a real child: ids in both processes, levels, crash reports."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import RunningNode, eventually

if TYPE_CHECKING:
    from tests.end_to_end.conftest import StartNode

SECRET = "sesame opens"


@pytest.fixture(scope="module")
def node(start_node: StartNode, tiny: Path) -> RunningNode:
    return start_node({"tiny": tiny}, supervisor="backoff_initial = 0")


def entries(node: RunningNode, **facts: Any) -> list[dict[str, Any]]:
    """The lines of the log that say these things; every line is JSON."""
    lines = [json.loads(line) for line in node.log]
    return [item for item in lines if all(item.get(name) == fact for name, fact in facts.items())]


def ask(node: RunningNode, request_id: str) -> None:
    body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}
    answer = node.ask("/v1/chat/completions", body, headers={"X-Request-Id": request_id})
    assert answer.status == 200


def level(node: RunningNode) -> str:
    return str(node.ask("/admin/logs").json["level"])


def test_a_request_is_one_line_under_its_id_and_a_signal_shows_what_its_child_says(
    node: RunningNode,
) -> None:
    ask(node, "quiet-1")
    eventually(lambda: bool(entries(node, event="request", request_id="quiet-1")))
    assert len(entries(node, request_id="quiet-1")) == 1

    node.process.send_signal(signal.SIGUSR1)
    eventually(lambda: level(node) == "debug")
    ask(node, "loud-1")
    eventually(lambda: len(entries(node, request_id="loud-1")) == 2)
    (in_child,) = entries(node, event="taken in", request_id="loud-1")
    (in_front,) = entries(node, event="request", request_id="loud-1")
    assert (in_child["model"], in_child["pid"]) == ("tiny", node.model("tiny")["pid"])
    assert in_child["tokens"] == in_front["prompt_tokens"]
    assert in_front["outcome"] == "success"
    assert in_front["completion_tokens"] == 4
    assert 0 < in_front["ttft_ms"] <= in_front["total_ms"]

    node.process.send_signal(signal.SIGUSR2)
    eventually(lambda: level(node) == "info")
    assert not any(SECRET in line for line in node.log)


def test_what_the_child_says_is_kept_though_nobody_wanted_to_see_it(node: RunningNode) -> None:
    ask(node, "quiet-2")

    def lines() -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = node.ask("/admin/logs?model=tiny").json["lines"]
        return lines

    # The answer comes on the pipe, the line on the child's stderr: neither waits for the other.
    eventually(lambda: any("request_id=quiet-2" in line["text"] for line in lines()))
    assert SECRET not in json.dumps(lines())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_a_model_prints_goes_where_the_front_reads(node: RunningNode) -> None:
    files = f"/proc/{node.model('tiny')['pid']}/fd"
    assert Path(files, "1").readlink() == Path(files, "2").readlink()


def test_a_crash_report_has_the_last_frames(node: RunningNode) -> None:
    pid = node.model("tiny")["pid"]
    os.kill(pid, signal.SIGSEGV)

    def crashes() -> list[dict[str, Any]]:
        events = node.ask("/admin/events").json["events"]
        return [
            event["facts"]
            for event in events
            if event["kind"] == "crash" and event["facts"]["pid"] == pid
        ]

    eventually(lambda: bool(crashes()))
    (crash,) = crashes()
    assert crash["signal"] == "SIGSEGV"
    assert "Fatal Python error: Segmentation fault" in crash["lines"]
    assert any("File " in line and "worker.py" in line for line in crash["lines"])
    eventually(lambda: bool(entries(node, event="crash", pid=pid)))
    eventually(lambda: node.model("tiny")["state"] == "ready")
