"""Which blocks come and go with the entries of a prompt cache, and in which reports."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache

from mlx_worker.child.kv_blocks import (
    REMOVED_A_REPORT,
    STORED_A_REPORT,
    BlockIndex,
    BlockReporter,
)
from mlx_worker.engine.kv.prompt_cache import PromptCache, RetentionClass
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.supervisor.kv_events.log import KvEventLog
from tests.kv_event_reader import Blocks
from tests.rounds import rounds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.wire.base import WireMessage

Tokens = tuple[int, ...]


def whole_prefixes(entries: Iterable[Tokens]) -> set[Tokens]:
    return {
        tokens[:stop]
        for tokens in entries
        for stop in range(CHUNK_TOKENS, len(tokens) + 1, CHUNK_TOKENS)
    }


class Followed:
    """An index, and a subscriber of what the index reports."""

    def __init__(self) -> None:
        self.index = BlockIndex()
        self.log = KvEventLog()
        self.blocks = Blocks()
        self.reports = 0

    def report(self) -> None:
        for report in self.index.reports():
            self.reports += 1
            self.log.on_blocks(report)
            assert (report.stored != []) + (report.removed != []) + report.cleared == 1
            for sequence, payload in self.log.since(self.blocks.last + 1):
                self.blocks.apply(sequence, payload)
            assert report.count == len(self.blocks.of_hash)
            assert report.digest == reduce(xor, self.blocks.of_hash, 0)


# Few sequences that share beginnings, with and without a rest that is no whole block.
sequences = st.builds(
    lambda blocks, rest: tuple(
        token for block in blocks for token in [block] * CHUNK_TOKENS
    ) + (7,) * rest,
    st.lists(st.integers(0, 1), max_size=3),
    st.sampled_from([0, 1]),
)  # fmt: skip
changes = st.one_of(sequences, st.sampled_from(["clear", "report"]))


@settings(max_examples=rounds(40, 200, 1000))
@given(st.lists(changes, max_size=30))
def test_a_subscriber_has_the_whole_blocks_of_all_entries(changes: list[Any]) -> None:
    followed, entries = Followed(), set[Tokens]()
    for change in changes:
        if change == "report":
            followed.report()
        elif change == "clear":
            followed.index.clear()
            entries.clear()
        elif change in entries:
            followed.index.remove(change)
            entries.remove(change)
        else:
            followed.index.add(change)
            entries.add(change)
    followed.report()
    assert followed.blocks.prefixes() == whole_prefixes(entries)


def test_what_comes_and_goes_between_two_reports_is_in_neither() -> None:
    followed = Followed()
    tokens = (1,) * CHUNK_TOKENS
    followed.index.add(tokens)
    followed.index.remove(tokens)
    followed.report()
    assert followed.reports == 0
    followed.index.add(tokens)
    followed.report()
    followed.index.remove(tokens)
    followed.index.add((*tokens, 2))
    followed.report()
    assert followed.reports == 1


def test_a_report_has_a_limit() -> None:
    followed = Followed()
    blocks = REMOVED_A_REPORT + 1
    long = tuple(token for token in range(blocks) for _ in range(CHUNK_TOKENS))
    followed.index.add(long)
    assert [len(report.stored) for report in followed.index.reports()] == [STORED_A_REPORT] * (
        REMOVED_A_REPORT // STORED_A_REPORT
    ) + [1]
    followed.index.remove(long)
    assert [len(report.removed) for report in followed.index.reports()] == [REMOVED_A_REPORT, 1]


def kv(tokens: list[int]) -> list[Any]:
    layer = KVCache()
    values = mx.array(tokens, dtype=mx.float32).reshape(1, 1, len(tokens), 1)
    layer.update_and_fetch(values, values)
    return [layer]


def test_a_prompt_cache_is_followed_through_stores_evictions_and_a_clear() -> None:
    log, blocks = KvEventLog(), Blocks()

    def send(messages: Iterable[WireMessage]) -> None:
        for message in messages:
            log.on_blocks(message)  # type: ignore[arg-type]

    reporter, cache = BlockReporter(send), PromptCache()
    cache.observers = (reporter,)

    def store(*tokens: int, kind: RetentionClass = RetentionClass.SESSION) -> None:
        cache.store(list(tokens), kv(list(tokens)), kind)

    def followed() -> set[Tokens]:
        reporter.report()
        for sequence, payload in log.since(blocks.last + 1):
            blocks.apply(sequence, payload)
        return blocks.prefixes()

    head, first, second = (1,) * 300, (2,) * 300, (3,) * 300
    store(*head, kind=RetentionClass.SYSTEM_PROMPT)
    store(*head, *first)
    store(9, 9, 9)
    assert followed() == whole_prefixes([head, (*head, *first)])
    numbers = blocks.last
    store(*head, *first, *second)  # in place of the turn before
    assert followed() == whole_prefixes([(*head, *first, *second)])
    assert blocks.last == numbers + 1
    assert blocks.resident([*head, *first, 4]) == 512
    cache.trim(1)  # the short one
    cache.trim(1)
    assert followed() == whole_prefixes([head])
    store(*second)
    cache.clear()
    assert followed() == set()
    assert (log.count, log.digest) == (0, 0)
