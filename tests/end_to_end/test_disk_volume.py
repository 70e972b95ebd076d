"""Volumes that fill, turn read-only or vanish, and a folder that another node has.

The node serves on, without an error and with the same answers, and uses the disk again by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import pytest

from tests.disk_nodes import DiskNode, cache_section, crashes, disk_report, disk_tokens
from tests.processes import COMMAND, DEADLINE, NO_DISK, RunningNode, eventually, running_node
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTRA: Final = "remember_turns = false"

HEALING: Final = 2 * DEADLINE
"""Seconds; a disk that failed is tried again after 30."""

MOUNTED: Final = 'mount -t tmpfs -o size=16m,mode=0755 none "$0" && exec "$@"'
"""Run by a shell in a mount namespace of its own: a small volume, then the node."""


def words(number: int, count: int) -> str:
    """Return words that no other number has."""
    return " ".join(Random(number).choices(WORDS, k=count))


def ask(node: RunningNode, number: int, length: int = 600) -> str:
    """Ask with a system prompt of this number, and return the answer."""
    body = {
        "messages": [
            {"role": "system", "content": words(number, length)},
            {"role": "user", "content": "Tell me of rivers"},
        ],
        "max_tokens": 6,
        "temperature": 0,
    }
    answer = node.ask("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    return str(answer.json["choices"][0]["message"]["content"])


class Answers:
    """What a node without KV on disk says to each number."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self._said: dict[int, str] = {}

    def check(self, node: RunningNode, *numbers: int) -> None:
        """Compare the answers of a node to these numbers."""
        for number in numbers:
            if number not in self._said:
                self._said[number] = ask(self._node, number)
            assert ask(node, number) == self._said[number]


@pytest.fixture(scope="module")
def answers(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    folder = tmp_path_factory.mktemp("plain")
    with running_node(folder, {"tiny": tiny}, extra=EXTRA, cache=NO_DISK) as node:
        node.wait_until_ready()
        yield Answers(node)


def off(disk: DiskNode) -> str:
    """Return why the node does not use the disk now."""
    return str(disk_report(disk.node, "tiny")["off"])


@pytest.fixture
def mounted(tiny: Path, tmp_path: Path) -> Iterator[DiskNode]:
    """A node in a mount namespace where the folder is on a volume of 16 MiB."""
    volume = tmp_path / "volume"
    volume.mkdir()
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNTED, str(volume)]
    if not shutil.which("unshare"):
        pytest.skip("there are no mount namespaces here")
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a volume, not even in a namespace")
    cache = cache_section(volume / "kv", free_min="1MiB")
    disk = DiskNode(tmp_path, {"tiny": tiny}, cache=cache, extra=EXTRA, command=[*inside, *COMMAND])
    with disk:
        yield disk


def seen_within(disk: DiskNode) -> Path:
    """Return the volume as the node sees it, from outside of the node's mount namespace."""
    return Path(f"/proc/{disk.node.process.pid}/root{disk.folder}/volume")


@contextlib.contextmanager
def nothing_written(disk: DiskNode) -> Iterator[None]:
    """Have every write of the child to a file fail, as on a volume that is read-only."""
    pid = disk.node.model("tiny")["pid"]
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def serves_and_writes(disk: DiskNode, answers: Answers, numbers: Iterator[int]) -> bool:
    """Ask with a new prompt; return True once the disk is used and the prompt is on disk."""
    before = disk_report(disk.node, "tiny")
    answers.check(disk.node, next(numbers))
    now = disk_report(disk.node, "tiny")
    return not now["off"] and now["writtenToday"] > before["writtenToday"]


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_volume_that_fills_is_an_error_to_no_client_and_heals(
    mounted: DiskNode, answers: Answers
) -> None:
    answers.check(mounted.node, 1, 2)
    eventually(lambda: disk_report(mounted.node, "tiny")["records"] > 0)
    filler = seen_within(mounted) / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    answers.check(mounted.node, 1, 2, 3, 4)
    mounted.unload("tiny")  # what is in memory would be found there
    answers.check(mounted.node, 1, 2, 3, 4)
    filler.unlink()
    numbers = itertools.count(10)
    eventually(lambda: serves_and_writes(mounted, answers, numbers), HEALING)
    assert crashes(mounted.node) == []
    lines = [line for line in mounted.node.log if "is off" in line]
    assert len(lines) <= 2  # one of each process


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_a_volume_that_takes_no_writes_is_read_on_and_heals(
    tiny: Path, tmp_path: Path, answers: Answers
) -> None:
    with DiskNode(tmp_path, {"tiny": tiny}, extra=EXTRA) as disk:
        answers.check(disk.node, 1, 2)
        disk.unload("tiny")
        answers.check(disk.node, 1)
        assert disk_tokens(disk.node, "tiny") > 0
        with nothing_written(disk):
            answers.check(disk.node, 3)
            eventually(lambda: off(disk) != "")
            before = disk_tokens(disk.node, "tiny")
            answers.check(disk.node, 2)
            assert disk_tokens(disk.node, "tiny") > before
        numbers = itertools.count(10)
        eventually(lambda: serves_and_writes(disk, answers, numbers), HEALING)
        assert crashes(disk.node) == []
        assert sum("is off" in line for line in disk.node.log) == 1


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_folder_that_vanishes_is_left_alone_and_heals(
    tiny: Path, tmp_path: Path, answers: Answers
) -> None:
    with DiskNode(tmp_path, {"tiny": tiny}, extra=EXTRA) as disk:
        answers.check(disk.node, 1, 2)
        eventually(lambda: disk_report(disk.node, "tiny")["records"] > 0)
        aside = disk.disk.rename(tmp_path / "aside")
        answers.check(disk.node, 1, 3)
        eventually(lambda: off(disk) != "")
        answers.check(disk.node, 4)
        assert not disk.disk.exists(), "a folder was made where a volume is missing"
        aside.rename(disk.disk)
        numbers = itertools.count(10)
        eventually(lambda: serves_and_writes(disk, answers, numbers), HEALING)
        assert crashes(disk.node) == []


@pytest.mark.full
@pytest.mark.timeout(120)
def test_two_nodes_never_share_a_folder(tiny: Path, tmp_path: Path, answers: Answers) -> None:
    first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    first_folder.mkdir()
    second_folder.mkdir()
    cache = cache_section(tmp_path / "kv")
    models = {"tiny": tiny}
    with DiskNode(second_folder, models, cache=cache, extra=EXTRA) as second:
        second.stop()
        with DiskNode(first_folder, models, cache=cache, extra=EXTRA) as first:
            second.start()
            answers.check(second.node, 1, 2)
            answers.check(first.node, 1)
            assert "another node" in off(second)
            assert off(first) == ""
            assert sum("no KV on disk" in line for line in second.node.log) == 1
            first.restart()
            answers.check(first.node, 1)
            assert disk_tokens(first.node, "tiny") > 0
        assert second.node.ask("/admin/reload", {}).status == 200
        second.node.ask("/admin/models/tiny/restart", {})
        eventually(lambda: second.node.model("tiny")["restarts"] > 0 and off(second) == "")
        answers.check(second.node, 1)
        assert disk_tokens(second.node, "tiny") > 0
