"""A store against a dictionary: any order of calls, restarts and lost indexes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kv_disk.disk_harness import Disk, is_right, single

RECORDS = [single(number) for number in range(6)]

numbers = st.integers(0, len(RECORDS) - 1)
calls = st.tuples(
    st.sampled_from(
        ["put", "put", "put", "delete", "suspect", "try", "absolve", "reopen", "lose", "clear"]
    ),
    numbers,
)


def expected(states: dict[int, str], name: str, number: int) -> None:
    """Change what the store should have: live, suspect or tried."""
    state = states.get(number)
    if name == "put":
        states.setdefault(number, "live")
    elif name == "clear":
        states.clear()
    elif name in ("reopen", "lose"):  # a trial that did not end is a crash
        for tried in [known for known, mark in states.items() if mark == "tried"]:
            del states[tried]
    elif state is None:
        return
    elif name == "delete" or (name == "suspect" and state != "live"):
        del states[number]
    elif name == "suspect":
        states[number] = "suspect"
    elif name == "try" and state == "suspect":
        states[number] = "tried"
    elif name == "absolve" and state == "tried":
        states[number] = "live"


@given(st.lists(calls, max_size=25))
@settings(max_examples=60)
def test_a_store_holds_what_a_dictionary_would(listed: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "kv")
        store = disk.open(segment_bytes=1000)
        states: dict[int, str] = {}
        for name, number in listed:
            record = RECORDS[number]
            if name == "put":
                store.put(record)
            elif name == "delete":
                store.delete(record.address)
            elif name == "suspect":
                store.suspect([record.address])
            elif name == "try":
                store.get(record.address, apart=True)
            elif name == "absolve":
                store.absolve([record.address])
            elif name == "clear":
                store.clear()
            else:
                store.close()
                if name == "lose":
                    disk.lose_index()
                store = disk.open(segment_bytes=1000)
            expected(states, name, number)
            for place, known in enumerate(RECORDS):
                is_live = states.get(place) == "live"
                assert store.contains(known.address) == is_live
                assert is_right(known, store.get(known.address)) == is_live
            assert store.statistics.records == len(states)
            assert store.statistics.quarantined == sum(mark != "live" for mark in states.values())
        store.close()
        assert disk.lines == []
