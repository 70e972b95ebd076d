"""Records on disk that a child read shortly before its death: set aside, tried once, deleted.

A right checksum is no proof that a record is harmless. Whatever the records do, the client gets the
whole answer.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.disk_nodes import DiskNode, crashes, disk_tokens
from tests.faults.failing_harness import STEPWISE, failing_copy, fault_folder, set_fault
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
KILLED: Final = Fault(kind="killed")
PREFIX: Final = 512
"""Tokens of the chunks that the prompt has at least."""


class Asked:
    """A node, the answer of which is known, and what it reads from disk."""

    def __init__(self, disk: DiskNode, folder: Path) -> None:
        self.disk = disk
        self._folder = folder
        self.answer = ""
        self.answer = self.ask()

    def ask(self) -> str:
        """Return the answer, which is always the same."""
        answer = self.disk.node.ask("/v1/chat/completions", BODY)
        assert answer.status == 200, answer.body
        text = str(answer.json["choices"][0]["message"]["content"])
        assert text == (self.answer or text)
        return text

    def ask_afresh(self) -> int:
        """Ask a process whose memory is empty; return how many tokens came from disk."""
        self.disk.unload(NAME)
        before = disk_tokens(self.disk.node, NAME)
        self.ask()
        return disk_tokens(self.disk.node, NAME) - before

    def ask_while_processes_die(self, deaths: int) -> None:
        """Ask a process whose memory is empty; it dies at its first step, and so do the next ones.

        The front tells no client what processes after the first one read for a request.
        """
        self.disk.unload(NAME)
        dead = len(crashes(self.disk.node))
        with ThreadPoolExecutor(1) as client:
            set_fault(self._folder, KILLED)
            answer = client.submit(self.ask)
            for death in range(1, deaths):
                eventually(lambda death=death: self._has_died(dead + death))  # type: ignore[misc]
                set_fault(self._folder, KILLED)
            answer.result()
        assert self._has_died(dead + deaths)

    def _has_died(self, times: int) -> bool:
        return len(crashes(self.disk.node)) >= times


@pytest.fixture
def asked(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.setenv(FOLDER, str(fault_folder(tmp_path)))
    model = failing_copy(tiny, tmp_path / NAME, NAME)
    with DiskNode(tmp_path, {NAME: model}, command=COMMAND, extra=STEPWISE) as disk:
        yield Asked(disk, tmp_path)


def test_a_record_read_before_a_kill_is_tried_apart_and_used_again(asked: Asked) -> None:
    assert asked.ask_afresh() >= PREFIX
    asked.ask_while_processes_die(1)  # the process that goes on tries the records
    assert asked.ask_afresh() >= PREFIX
    assert asked.ask_afresh() >= PREFIX


def test_a_record_read_before_two_kills_is_deleted_and_written_anew(asked: Asked) -> None:
    assert asked.ask_afresh() >= PREFIX
    asked.ask_while_processes_die(2)
    assert asked.ask_afresh() < PREFIX
    assert asked.ask_afresh() >= PREFIX
