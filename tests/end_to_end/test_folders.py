"""A whole node of which folders are missing, come and go, with the real child."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.processes import CONFIG, DEADLINE, RunningNode, config_text, eventually, running_node


def said(node: RunningNode, model: str) -> int:
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    return node.ask("/v1/chat/completions", body).status


def reloaded(node: RunningNode) -> tuple[int, Any]:
    answer = node.ask("/admin/reload", b"", method="POST")
    return answer.status, answer.json.get("changed")


def is_in(node: RunningNode, model: str, state: str) -> bool:
    return bool(node.model(model)["state"] == state)


@pytest.mark.full
def test_a_node_listens_and_serves_without_two_of_its_three_folders(
    nano: Path, tmp_path: Path
) -> None:
    late, fifo = tmp_path / "late", tmp_path / "fifo"
    os.mkfifo(fifo)
    with running_node(tmp_path, {"late": late, "fifo": fifo, "good": nano}) as node:
        listed = node.ask("/v1/models").json["data"]
        assert {entry["id"] for entry in listed} == {"late", "fifo", "good"}
        eventually(lambda: is_in(node, "good", "ready"))
        assert said(node, "good") == 200
        assert is_in(node, "late", "failed")
        assert is_in(node, "fifo", "failed")
        # A reload takes a failed model as the model is, and no new one that cannot be.
        before = config_text({"late": late, "fifo": fifo, "good": nano})
        (tmp_path / CONFIG).write_text(before + "max_queue = 3\n")
        assert reloaded(node) == (200, ["good"])
        (tmp_path / CONFIG).write_text(before + '[[models]]\nid = "new"\npath = "nowhere"\n')
        assert reloaded(node) == (422, None)
        shutil.copytree(nano, late)
        eventually(lambda: is_in(node, "late", "ready"))
        assert said(node, "late") == 200
        assert node.stop() == 0


@pytest.mark.full
def test_a_disk_that_comes_back_brings_its_model_back(nano: Path, tmp_path: Path) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    shutil.copytree(nano, disk)
    with running_node(tmp_path, {"m": disk}) as node:
        node.wait_until_ready()
        disk.rename(away)
        os.kill(node.model("m")["pid"], signal.SIGKILL)
        eventually(lambda: is_in(node, "m", "failed"))
        assert node.model("m")["nextTry"] > 0
        away.rename(disk)
        eventually(lambda: is_in(node, "m", "ready"))
        assert said(node, "m") == 200


def test_a_node_that_serves_nothing_ends_with_70_where_it_is_told_to(tmp_path: Path) -> None:
    supervisor = "exit_when_failed_for = 0.1"
    with running_node(tmp_path, {"m": tmp_path / "none"}, supervisor=supervisor) as node:
        assert node.process.wait(DEADLINE) == 70
        eventually(lambda: any("outage" in line for line in node.log))
