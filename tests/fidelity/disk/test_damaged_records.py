"""Damage to KV on disk never gives a wrong token: 10,000 damages through an engine, then a child.

Engines of real models open folders that were damaged, or work on while their folders are damaged.
Each answer is what mlx_lm says alone; what was damaged is read anew. `tests/kv_disk` has the same
at the level of bytes.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.kv.disk.tier import DiskTier
from mlx_worker.wire.messages import DiskCache
from tests.fidelity import tally
from tests.fidelity.reference import Ask, Model
from tests.fidelity.scenarios import Row, Stage, tokens
from tests.kv_disk.test_corruption import DAMAGES, Files, files_of, restore, set_time
from tests.rounds import SEED, rounds
from tests.synthetic_models import SPECS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.kv_disk.reports import Statistics

pytestmark = pytest.mark.fidelity

CASES: Final = rounds(40, 200, 2500)
"""Damages of each family's folder."""

FAMILIES: Final = ("tiny", "window", "delta", "latent")
"""Chunks alone; with windows; with states; chunks of unequal widths."""

CAPACITY: Final = 8 << 20
VERSIONS: Final = {"mlx": "1", "mlx-lm": "1"}


def swap_segments(path: Path, chooser: random.Random) -> None:
    """Exchange two files of the folder, if another file is left."""
    others = sorted(file for file in path.parent.iterdir() if file != path)
    if not others:
        return
    other = chooser.choice(others)
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


KINDS: Final = (*DAMAGES, swap_segments)


class DiskStage(Stage):
    """An engine under way whose KV is on disk."""

    def __init__(self, model: Model, tier: DiskTier) -> None:
        self._tier = tier
        super().__init__(model)

    def _new_engine(self, concurrency: int) -> Engine:
        return Engine(
            self.model.model,
            self.model.tokenizer,
            context_length=8192,
            max_concurrency=concurrency,
            disk=self._tier,
        )


@dataclass
class Folder:
    """A sound folder with the KV of some prompts of a model, and that of other weights beside."""

    path: Path
    model: Model
    asks: list[Ask]
    files: Files
    own: Path
    """The folder of the model's identity."""


def tier_of(path: Path, model: Model) -> DiskTier:
    disk = DiskCache(str(path), CAPACITY, 1 << 40, 1)
    tier = DiskTier.open(disk, model.model, model.name, VERSIONS)
    assert tier is not None
    return tier


def prompts(salt: int) -> list[Ask]:
    """Return prompts that share a system prefix, end within chunks, and extend one another."""
    system = tokens(salt, 1, 270)
    asks = [Ask(system + tokens(salt, 2, 90), 270, max_tokens=6)]
    asks.append(Ask(asks[0].prompt + tokens(salt, 3, 180), 270, max_tokens=6))
    asks.append(Ask(system + tokens(salt, 4, 20), 270, max_tokens=6))
    asks.append(Ask(tokens(salt, 5, 256) + tokens(salt, 6, 2), 256, max_tokens=6))
    return asks


def write(path: Path, model: Model, asks: list[Ask]) -> None:
    """Have an engine write what it keeps of these prompts, and end as a child does."""
    tier = tier_of(path, model)
    for _ in range(2):  # a stranger's prompt is written when used twice
        stage = DiskStage(model, tier)
        for ask in asks:
            stage.admit(ask)
            stage.finish()
        leave(stage, tier)
    tier.close(60)


def leave(stage: DiskStage, tier: DiskTier) -> None:
    """Write the last states of sessions, as at an unload."""
    assert stage.engine.entry_writer is not None
    stage.engine.entry_writer.finish(60)
    assert tier.writer.drain(60)


def mistakes(model: Model, rows: list[Row]) -> list[str]:
    """Return the rows whose tokens are not mlx_lm's."""
    return [
        f"{row.tokens} is not {expected}"
        for row in rows
        if row.tokens != (expected := model.answer(row.ask).tokens)
    ]


@pytest.fixture
def folder_of(
    tmp_path: Path, model_of: Callable[[str], Model]
) -> Iterator[Callable[[str], Folder]]:
    """Make a folder with the KV of a family, and with that of the family's other weights.

    In memory where the system has such a volume.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as root:

        def made(family: str) -> Folder:
            spec, kind = SPECS[family]
            other = make_folder(replace(spec, seed=spec.seed + 100), kind, tmp_path / "other")
            path, model, asks = Path(root) / "kv", model_of(family), prompts(1)
            write(path, Model.load(other), asks)
            before = {folder.name for folder in path.iterdir()}
            write(path, model, asks)
            (own,) = (
                folder for folder in path.iterdir() if folder.is_dir() and folder.name not in before
            )
            return Folder(path, model, asks, files_of(path), own)

        yield made


def damage(folder: Folder, chooser: random.Random, outcomes: Counter[str]) -> None:
    """Do some damages; half of the damaged files keep their times, so a saved index is believed."""
    for _ in range(chooser.choice([1, 1, 2, 5])):
        paths = sorted(path for path in folder.own.iterdir() if path.is_file())
        if not paths:
            return
        kind, path = chooser.choice(KINDS), chooser.choice(paths)
        kind(path, chooser)
        if path.exists() and chooser.random() < 0.5:
            set_time(path, folder.files.get(str(path.relative_to(folder.path)), (b"", 0))[1])
        outcomes[kind.__name__] += 1


def damage_once(folder: Folder, seed: int, outcomes: Counter[str]) -> list[str]:
    """Damage a folder, at rest or in use, and ask an engine whose memory is empty."""
    chooser = random.Random(f"{seed}/{SEED}")
    restore(folder.path, folder.files)
    is_in_use = chooser.random() < 0.5
    tier = tier_of(folder.path, folder.model) if is_in_use else None
    damage(folder, chooser, outcomes)
    tier = tier or tier_of(folder.path, folder.model)
    stage = DiskStage(folder.model, tier)
    for ask in chooser.sample(folder.asks, 2):
        stage.admit(ask)
        if chooser.random() < 0.7:
            stage.finish()  # else two read beside one another
    stage.finish()
    for row in stage.rows:
        assert row.started is not None
        count_row(row, outcomes)
    count_store(tier.store.statistics, outcomes)
    tier.close(60)
    return mistakes(folder.model, stage.rows)


def count_row(row: Row, outcomes: Counter[str]) -> None:
    started = row.started
    assert started is not None
    outcomes["answers"] += 1
    if started.disk_tokens == 0:
        outcomes["answers: nothing from disk"] += 1
    elif started.disk_tokens < started.prompt_tokens // 2:
        outcomes["answers: some from disk"] += 1
    else:
        outcomes["answers: most from disk"] += 1
    outcomes["tokens from disk"] += started.disk_tokens
    outcomes["tokens of prompts"] += started.prompt_tokens


def count_store(statistics: Statistics, outcomes: Counter[str]) -> None:
    outcomes["records: read right"] += statistics.hits
    outcomes["records: missing"] += statistics.misses
    outcomes["records: damaged, deleted"] += statistics.corrupt
    outcomes["records: set aside"] += statistics.quarantined
    outcomes["store: off"] += bool(statistics.off)


def show(title: str, outcomes: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{count:>12,} {name}" for name, count in sorted(outcomes.items())]
    with capsys.disabled():
        sys.stdout.write("\n".join(["", title, *lines, ""]))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("family", FAMILIES)
def test_damage_of_any_kind_never_gives_a_wrong_token(
    family: str,
    folder_of: Callable[[str], Folder],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, outcomes = folder_of(family), Counter[str]()
    wrong: list[str] = []
    for seed in range(CASES):
        wrong += [f"seed {seed}: {answer}" for answer in damage_once(folder, seed, outcomes)]
    tally.note(f"{family} from damaged disks", outcomes["answers"], len(wrong))
    show(f"{CASES:,} damaged folders of {family}", outcomes, capsys)
    assert not wrong, "\n".join(wrong)
    assert outcomes["records: read right"]
    assert outcomes["answers: most from disk"]
    assert outcomes["answers: nothing from disk"]
    assert set(outcomes) > {kind.__name__ for kind in KINDS}
