"""After a restart, a kill, an unload or a swap each answer is what mlx_lm says without any cache.

Real nodes, real children, many clients at once. For each family of caches there are 510 cases after
each event in `tox -e fidelity`; a family whose KV can be stored has to have read from disk.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from tests.disk_nodes import RESTLESS, DiskNode, disk_use
from tests.fidelity import tally
from tests.fidelity.disk.cases import Case, Conversations, Counted, Heard, difference, hear
from tests.fidelity.families import BATCHED, UNBATCHED
from tests.rounds import IS_LONG, SEED, rounds
from tests.synthetic_models import make, make_nano

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fidelity.reference import Model

pytestmark = pytest.mark.fidelity

BEFORE: Final = 60 if IS_LONG else 20
CASES: Final = 102 if IS_LONG else 34
"""Requests before and after one event."""

ROUNDS: Final = rounds(1, 1, 5)
"""Times that each event comes."""

CLIENTS: Final = 8

OTHER: Final = "other"
"""The model that takes the place of the one under test, where memory is for one."""

SUPERVISOR: Final = f'{RESTLESS}\nmemory_limit = "300MB"\nload_wait = 60'
EXTRA: Final = 'remember_turns = false\ncache_bytes = "16MB"'
"""A prompt is its text, as mlx_lm reads it."""


def swap(disk: DiskNode, _name: str) -> None:
    """Have another model take the place of the one under test."""
    hear(disk.node, OTHER, Case(({"role": "user", "content": "the river"},), 2))


EVENTS: Final[dict[str, Callable[[DiskNode, str], None]]] = {
    "node restart": lambda disk, _: disk.restart(),
    "child killed": DiskNode.kill_child,
    "front killed": lambda disk, _: disk.kill_front(),
    "unload": DiskNode.unload,
    "swap": swap,
}
IN_USE: Final = "killed in use"


def answers(disk: DiskNode, name: str, cases: list[Case], kill_after: int = -1) -> list[Heard]:
    """Ask all cases, eight at a time; the child is killed once this many were answered."""
    lock, answered = threading.Lock(), 0

    def ask(case: Case) -> Heard:
        nonlocal answered
        heard = hear(disk.node, name, case)
        with lock:
            answered += 1
            if answered == kill_after:
                os.kill(disk.node.model(name)["pid"], signal.SIGKILL)
        return heard

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(ask, cases))


def compared(model: Model, cases: list[Case], heard: list[Heard]) -> list[str]:
    pairs = zip(cases, heard, strict=True)
    return [it for case, one in pairs if (it := difference(model, case, one))]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("family", [*BATCHED, *UNBATCHED])
def test_answers_after_an_event_are_those_without_any_cache(
    family: str,
    model_of: Callable[[str], Model],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = model_of(family)
    draw = random.Random(f"{family}/{SEED}")
    talks, counted = Conversations(model, draw), Counted(family)
    models = {family: tmp_path / family, OTHER: make_nano(tmp_path / OTHER)}
    make(family, models[family])
    extra = {family: EXTRA, OTHER: f"{EXTRA}\npreload = false"}
    with DiskNode(tmp_path, models, supervisor=SUPERVISOR, extra=extra) as disk:
        for _ in range(ROUNDS):
            for event in draw.sample([*EVENTS, IN_USE], len(EVENTS) + 1):
                asked = talks.before(BEFORE)
                wrong = compared(model, asked, answers(disk, family, asked))
                assert not wrong, "\n".join(wrong)
                if event != IN_USE:
                    EVENTS[event](disk, family)
                before = disk_use(disk.node, family)
                cases = talks.after(CASES)
                kill_after = draw.randrange(5, CASES // 2) if event == IN_USE else -1
                heard = answers(disk, family, cases, kill_after)
                read = disk_use(disk.node, family).since(before)
                counted.add(event, heard, compared(model, cases, heard), read)
    tally.note(f"{family} on disk", counted.cases.total(), counted.wrong.total())
    with capsys.disabled():
        sys.stdout.write(f"\n{counted.table()}\n")
    assert not counted.complaints, "\n".join(counted.complaints)
    # Of a third of the requests, those behind a kill in use may all be new prompts.
    reads = [event for event in counted.cases if IS_LONG or event != IN_USE]
    assert all(counted.read[event]["disk"] > 0 for event in reads), counted.table()
