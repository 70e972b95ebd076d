"""Damage to KV on disk under a real node: no wrong token, no death of a child, no error.

The node's memory holds one prompt, so that each request looks on disk. Other weights under the same
name find nothing of what was written before.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.bench.synthetic.llama import LLAMA, TINY
from tests.disk_nodes import DiskNode, crashes, disk_report, disk_tokens
from tests.fidelity import tally
from tests.fidelity.disk.cases import Case, difference, hear, words
from tests.fidelity.disk.test_damaged_records import KINDS, show
from tests.fidelity.reference import Model
from tests.kv_disk.test_corruption import files_of, restore, set_time
from tests.rounds import SEED, rounds

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.fidelity

DAMAGES: Final = rounds(10, 60, 400)
BETWEEN: Final = 20
"""Damages in use between two at rest, which need a new process."""

EXTRA: Final = 'remember_turns = false\ncache_bytes = "1MB"'


def cases_of(draw: random.Random) -> list[Case]:
    """Return chats with long system prompts, some of which share one."""
    systems = [words(draw, length) for length in (253, 300, 520, 600)]
    return [
        Case(
            (
                {"role": "system", "content": system},
                {"role": "user", "content": words(draw, draw.choice([3, 40]))},
            ),
            6,
        )
        for system in (*systems, *systems)
    ]


@pytest.mark.timeout(0)
def test_damage_under_a_node_gives_no_wrong_token_and_ends_no_child(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, draw, outcomes = Model.load(tiny), random.Random(SEED), Counter[str]()
    cases = cases_of(draw)
    wrong: list[str] = []
    # In the file system of the test: a volume that is memory may be too small.
    with DiskNode(tmp_path, {"tiny": tiny}, extra=EXTRA) as disk:
        for case in (*cases, *cases):
            hear(disk.node, "tiny", case)
        disk.unload("tiny")
        files = files_of(disk.disk)
        own = next(path.parent for path in disk.disk.glob("*/*.seg"))
        for number in range(DAMAGES):
            if number % BETWEEN == 0:
                if disk.node.model("tiny")["pid"] is not None:
                    disk.unload("tiny")
                restore(disk.disk, files)
            pid = disk.node.model("tiny")["pid"]
            kind = draw.choice(KINDS)
            if paths := sorted(path for path in own.iterdir() if path.is_file()):
                path = draw.choice(paths)
                kind(path, draw)
                if path.exists() and draw.random() < 0.5:
                    set_time(path, files.get(str(path.relative_to(disk.disk)), (b"", 0))[1])
                outcomes[kind.__name__] += 1
            for case in draw.sample(cases, 2):
                heard = hear(disk.node, "tiny", case)
                outcomes["answers: cached" if heard.cached else "answers: prefilled"] += 1
                wrong += [it] if (it := difference(model, case, heard)) else []
            assert pid in (None, disk.node.model("tiny")["pid"]), "a child has died"
        outcomes["tokens from disk"] += disk_tokens(disk.node, "tiny")
        deaths = crashes(disk.node)
        report = disk_report(disk.node, "tiny")
    show(f"{DAMAGES} damages under a node: {report}", outcomes, capsys)
    tally.note("tiny from damaged disks", DAMAGES * 2, len(wrong))
    assert not wrong, "\n".join(wrong)
    assert outcomes["answers: cached"]
    assert outcomes["answers: prefilled"]
    assert deaths == []


@pytest.mark.timeout(120)
def test_other_weights_under_the_same_name_find_nothing_on_disk(tmp_path: Path) -> None:
    draw, served = random.Random(SEED), tmp_path / "served"
    folders = [
        make_folder(replace(TINY, seed=seed), LLAMA, tmp_path / str(seed)) for seed in (1, 2)
    ]
    models = [Model.load(folder) for folder in folders]
    cases = cases_of(draw)[:4]
    shutil.copytree(folders[0], served)
    with DiskNode(tmp_path, {"tiny": served}, extra="remember_turns = false") as disk:
        read = []
        for turn in (0, 1, 0, 1):
            disk.stop()
            shutil.copytree(folders[turn], served, dirs_exist_ok=True)
            disk.start()
            for case in cases:
                assert difference(models[turn], case, hear(disk.node, "tiny", case)) is None
            read.append(disk_tokens(disk.node, "tiny"))
    assert read[:2] == [0, 0]
    assert min(read[2:]) > 0
