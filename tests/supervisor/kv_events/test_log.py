"""The events of one model in order: numbers, folding, and what a replay makes of them."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_worker.child.kv_blocks import BlockIndex
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.supervisor.kv_events.log import KvEventBatch, KvEventLog
from tests.kv_event_reader import Blocks
from tests.rounds import rounds


def tokens(*blocks: int) -> tuple[int, ...]:
    return tuple(token for block in blocks for token in [block] * CHUNK_TOKENS)


def rebuilt(log: KvEventLog, known: Blocks) -> Blocks:
    """What a subscriber has that asks for all after what it knows."""
    for sequence, payload in log.since(known.last + 1):
        known.apply(sequence, payload)
    return known


def test_the_bytes_are_those_of_vllms_structs() -> None:
    log, index = KvEventLog(now=lambda: 1.5), BlockIndex()
    index.add(tokens(5, 6))
    for report in index.reports():
        log.on_blocks(report)
    index.remove(tokens(5, 6))
    for report in index.reports():
        log.on_blocks(report)
    log.clear()
    stored, removed, cleared = [msgspec.msgpack.decode(payload) for _, payload in log.since(0)]
    assert stored[0] == 1.5
    assert stored[2] == 0
    first, second = stored[1]
    assert first == {
        "type": "BlockStored",
        "block_hashes": first["block_hashes"],
        "parent_block_hash": None,
        "token_ids": [5] * CHUNK_TOKENS,
        "block_size": CHUNK_TOKENS,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    }
    assert second["parent_block_hash"] == first["block_hashes"][0]
    hashes = [second["block_hashes"][0], first["block_hashes"][0]]
    assert removed[1] == [{"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU"}]
    assert cleared[1] == [{"type": "AllBlocksCleared"}]


changes = st.one_of(
    st.lists(st.integers(0, 2), min_size=1, max_size=3).map(lambda blocks: tokens(*blocks)),
    st.sampled_from(["clear", "lost", "catch up"]),
)


@settings(max_examples=rounds(30, 200, 1000))
@given(st.lists(changes, max_size=30), st.integers(1, 4))
def test_a_replay_from_any_number_rebuilds_everything(changes: list[object], kept: int) -> None:
    log, index, entries = KvEventLog(max_batches=kept), BlockIndex(), set[object]()
    late = Blocks()
    for change in changes:
        if change == "catch up":
            rebuilt(log, late)
        elif change == "clear":
            index.clear()
            entries.clear()
        elif change == "lost":
            index = BlockIndex()
            entries.clear()
            log.on_process_lost()
        elif isinstance(change, tuple):
            (index.remove if change in entries else index.add)(change)
            entries ^= {change}
        for report in index.reports():
            log.on_blocks(report)
        for blocks in (rebuilt(log, Blocks()), late):
            if blocks.last + 1 == log.next_sequence:
                assert len(blocks.of_hash) == log.count
                assert blocks.digest == f"{log.digest:016x}"
    assert rebuilt(log, late).of_hash == rebuilt(log, Blocks()).of_hash


def test_large_batches_are_folded_before_many_are() -> None:
    log, index = KvEventLog(max_bytes=10_000), BlockIndex()
    for block in range(50):
        index.add(tokens(1000 + block))
        for report in index.reports():
            log.on_blocks(report)
    batches = list(log.since(0))
    assert len(batches) <= 12
    assert [number for number, _ in batches] == list(range(50 - len(batches), 50))
    assert len(rebuilt(log, Blocks()).of_hash) == 50


def test_a_lost_process_clears_what_it_had_and_only_that() -> None:
    log, index, published = KvEventLog(), BlockIndex(), list[KvEventBatch]()
    log.on_batch = published.append
    log.on_process_lost()
    index.add(tokens(1))
    for report in index.reports():
        log.on_blocks(report)
    log.on_process_lost()
    log.on_process_lost()
    assert [(batch.sequence, batch.is_cleared) for batch in published] == [(0, False), (1, True)]
    assert (log.count, log.digest) == (0, 0)
