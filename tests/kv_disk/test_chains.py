"""The longest prefix on disk, against a look at every prefix."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_worker.kv_disk.chains import Chain, find_chain
from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.files.records import KV_KINDS, Address, Kind
from tests.kv_disk.disk_harness import IDENTITY, Disk, record_of

if TYPE_CHECKING:
    from mlx_worker.kv_disk.store import DiskStore

prompts = st.builds(
    lambda parts: [token for token, count in parts for _ in range(count)],
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([1, 3, 256])), max_size=4),
)
needed = st.sampled_from(
    [
        frozenset({Kind.DELTA}),
        frozenset({Kind.DELTA, Kind.WINDOW}),
        frozenset({Kind.STATE}),
        KV_KINDS,
    ]
)


def best_of_all(store: DiskStore, tokens: list[int], kinds: frozenset[Kind]) -> Chain | None:
    for length in range(len(tokens), 0, -1):
        links = chain(IDENTITY, tokens[:length])
        addresses = [
            *(Address(Kind.DELTA, link.key) for link in links if Kind.DELTA in kinds),
            *(Address(kind, links[-1].key) for kind in sorted(kinds - {Kind.DELTA})),
        ]
        if all(map(store.contains, addresses)):
            return Chain(length, tuple(addresses))
    return None


@given(st.lists(st.tuples(prompts, st.booleans()), max_size=5), prompts, needed)
@settings(max_examples=60)
def test_the_longest_prefix_is_found(
    stored: list[tuple[list[int], bool]], tokens: list[int], kinds: frozenset[Kind]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Disk(Path(folder) / "kv").open()
        for prompt, has_end in stored:
            links = chain(IDENTITY, prompt)
            for link in links:
                store.put(record_of(link))
            for link in links[-1:] if has_end else []:
                store.put(record_of(link, kind=Kind.STATE))
                store.put(record_of(link, kind=Kind.WINDOW))
        assert find_chain(store, IDENTITY, tokens, kinds) == best_of_all(store, tokens, kinds)
        store.close()


def test_records_under_suspicion_serve_only_apart_from_others(disk: Disk) -> None:
    store = disk.open()
    links = chain(IDENTITY, list(range(600)))
    records = [record_of(link, seconds=2.5) for link in links]
    for record in records:
        store.put(record)
    store.suspect([records[1].address])
    tokens = list(range(600))
    kinds = frozenset({Kind.DELTA})
    beside = find_chain(store, IDENTITY, tokens, kinds)
    apart = find_chain(store, IDENTITY, tokens, kinds, apart=True)
    assert beside == Chain(256, (records[0].address,))
    assert apart == Chain(600, tuple(record.address for record in records))
    size, seconds = store.cost_of(records[1].address)
    assert size > 64
    assert seconds == 2.5
    store.delete(records[1].address)
    assert store.cost_of(records[1].address) == (0, 0.0)
