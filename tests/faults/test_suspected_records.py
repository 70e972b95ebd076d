"""Records on disk that a child read shortly before its death: set aside, tried once, deleted.

A right checksum is no proof that a record is harmless. Whatever the records do, the client gets the
whole answer.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.disk_nodes import DiskNode, disk_report, disk_tokens
from tests.faults.failing_harness import failing_copy, fault_folder, set_fault
from tests.faults.failing_model import FOLDER, Fault
from tests.faults.failing_node import COMMAND
from tests.processes import eventually
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full

NAME: Final = "storable"
BODY: Final[dict[str, Any]] = {
    "messages": [
        {"role": "system", "content": " ".join(Random(2).choices(WORDS, k=600))},
        {"role": "user", "content": "Tell me of rivers"},
    ],
    "max_tokens": 12,
    "temperature": 0,
}
PREFIX: Final = 512
"""Tokens of the chunks that the prompt has at least."""


class Asked:
    """A node, the answer of which is known, and what it reads from disk."""

    def __init__(self, disk: DiskNode, folder: Path) -> None:
        self.disk = disk
        self._folder = folder
        self.answer = ""
        self.answer = self.ask()[0]

    def ask(self, fault: Fault | None = None) -> tuple[str, int]:
        """Return the answer, and how many tokens of the prompt came from disk."""
        if fault is not None:
            set_fault(self._folder, fault)
        before = disk_tokens(self.disk.node, NAME)
        answer = self.disk.node.ask("/v1/chat/completions", BODY)
        assert answer.status == 200, answer.body
        text = str(answer.json["choices"][0]["message"]["content"])
        assert text == (self.answer or text)
        return text, disk_tokens(self.disk.node, NAME) - before

    def ask_afresh(self, fault: Fault | None = None) -> int:
        """Ask a process whose memory is empty; return how many tokens came from disk."""
        self.disk.unload(NAME)
        return self.ask(fault)[1]

    @property
    def quarantined(self) -> int:
        return int(disk_report(self.disk.node, NAME)["quarantined"])


@pytest.fixture
def asked(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.setenv(FOLDER, str(fault_folder(tmp_path)))
    model = failing_copy(tiny, tmp_path / NAME, NAME)
    with DiskNode(tmp_path, {NAME: model}, command=COMMAND) as disk:
        yield Asked(disk, tmp_path)


KILLED: Final = Fault(kind="killed")


def test_a_record_read_before_a_kill_is_set_aside_then_used_again(asked: Asked) -> None:
    assert asked.ask_afresh() >= PREFIX
    asked.ask_afresh(KILLED)
    eventually(lambda: asked.quarantined > 0)
    asked.ask_afresh()  # apart from others, with success
    eventually(lambda: asked.quarantined == 0)
    assert asked.ask_afresh() >= PREFIX


def test_a_record_read_before_two_kills_is_deleted(asked: Asked) -> None:
    assert asked.ask_afresh() >= PREFIX
    asked.ask_afresh(KILLED)
    eventually(lambda: asked.quarantined > 0)
    asked.ask_afresh(KILLED)
    eventually(lambda: asked.quarantined == 0)
    assert asked.ask_afresh() < PREFIX
