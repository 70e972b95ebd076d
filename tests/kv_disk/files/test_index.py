"""What is kept of the records is what a look at each of them would say."""

from __future__ import annotations

import random

import pytest

from mlx_worker.kv_disk.files.index import HALF_LIFE, Index, new_entry
from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.files.records import Mark
from tests.kv_disk.disk_harness import IDENTITY, record_of


def test_the_worth_of_a_segment_is_that_of_its_records() -> None:
    """Whatever is added, used, marked or removed, the sum kept is the sum counted anew."""
    index = Index()
    chooser = random.Random(1)
    records = [record_of(link) for start in range(4) for link in chain(IDENTITY, [start] * 1000)]
    entries = [new_entry(record, 100, 0.0) for record in records]
    for place, entry in enumerate(entries):
        entry.segment = place % 3
    now = 0.0
    for _ in range(300):
        now += chooser.random() * HALF_LIFE
        entry = chooser.choice(entries)
        change = chooser.choice(["remove", "use", "mark"])
        if index.get(entry.address) is None:
            index.add(entry)
        elif change == "remove":
            index.remove(entry.address)
        elif change == "use":
            index.use(entry, now)
        else:
            index.mark(entry, chooser.choice([Mark.LIVE, Mark.TRIED]))
        for number in range(3):
            counted = sum(index.worth(entry, now) for entry in index.of_segment(number))
            assert index.segment_worth(number, now) == pytest.approx(counted)
