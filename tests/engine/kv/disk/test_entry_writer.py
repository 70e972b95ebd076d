"""What of the prompt cache is on disk after what, and that a step does little of it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from mlx_lm.models.cache import ChunkedKVCache

from mlx_worker.engine.kv.disk.arrays import capture
from mlx_worker.engine.kv.disk.entry_writer import OFF_WAIT, REST_SECONDS
from mlx_worker.engine.kv.disk.record_copy import RecordCopy
from mlx_worker.engine.kv.disk.tier import DiskTier
from mlx_worker.engine.kv.prompt_cache import RetentionClass
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.kv_disk.files.payload import nbytes_of
from mlx_worker.kv_disk.files.records import Kind
from mlx_worker.wire.messages import DiskCache
from tests.engine.kv.disk.tier_harness import GIB, VERSIONS, Seat, some_tokens
from tests.rounds import variants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SYSTEM = 300
PROMPT = 340

FAMILIES = ["nano", "window", "delta", "recurrent", "statespace", "unpadded"]


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    seat = Seat("nano", tmp_path)
    yield seat
    seat.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_prompt_and_a_rested_session_are_on_disk(name: str, tmp_path: Path) -> None:
    seat = Seat(name, tmp_path)
    tokens = some_tokens(PROMPT, 1)
    seat.chat(tokens, system=SYSTEM, in_session=True)
    seat.idle()
    longest = max((entry.tokens for entry in seat.entries), key=len)
    assert len(longest) > PROMPT  # generated tokens count too
    assert seat.on_disk(longest) == SYSTEM
    seat.idle(REST_SECONDS - 1)
    assert seat.on_disk(longest) == SYSTEM
    seat.idle(1)
    assert seat.on_disk(longest) == len(longest)
    for entry in seat.entries:
        restored = seat.restored(entry.tokens)
        size = len(entry.tokens)
        assert seat.bits(restored, size) == seat.bits(entry.kv, size)
    seat.close()


@pytest.mark.parametrize("name", variants(FAMILIES, ["window"]))
def test_an_answer_after_a_restart_is_that_without_a_cache(name: str, tmp_path: Path) -> None:
    seat = Seat(name, tmp_path)
    seat.chat(some_tokens(PROMPT, 1), system=SYSTEM, in_session=True)
    longest = max((entry.tokens for entry in seat.entries), key=len)
    prompt = [*longest, *some_tokens(20, 2)]
    seat.writer.finish(60)
    seat.close()
    seat.open()
    answer, from_disk = seat.answer(prompt)
    assert from_disk == len(longest)
    seat.engine.clear_cache()
    assert seat.tier.clear()
    assert seat.answer(prompt) == (answer, 0)
    seat.close()


def test_a_session_that_goes_on_rests_anew(seat: Seat) -> None:
    tokens = some_tokens(PROMPT, 1)
    seat.chat(tokens, in_session=True)
    seat.idle(REST_SECONDS - 1)
    (first,) = seat.entries
    seat.chat([*first.tokens, *some_tokens(20, 2)], in_session=True)
    seat.idle(REST_SECONDS - 1)
    (second,) = seat.entries
    assert seat.on_disk(second.tokens) == 0
    seat.idle(1)
    assert seat.on_disk(second.tokens) == len(second.tokens)


def test_an_anonymous_prompt_is_written_when_used_twice(seat: Seat) -> None:
    tokens = some_tokens(2 * CHUNK_TOKENS + 10, 1)
    seat.chat(tokens)
    seat.idle(10 * REST_SECONDS)
    assert seat.on_disk(tokens) == 0
    shared = CHUNK_TOKENS + 50
    seat.chat([*tokens[:shared], *some_tokens(20, 2)])
    seat.idle()
    assert seat.on_disk(tokens) == CHUNK_TOKENS  # whole chunks of what was used twice


def test_an_anonymous_prompt_that_goes_on_is_written_although_replaced(seat: Seat) -> None:
    tokens = some_tokens(CHUNK_TOKENS + 10, 1)
    seat.chat(tokens, answer=1)
    seat.admit([*seat.entries[0].tokens, *some_tokens(20, 2)], answer=1)
    assert seat.engine.cache.facts.entries == 1
    seat.engine.cancel_all()
    seat.idle()
    assert seat.on_disk(tokens) == CHUNK_TOKENS


def test_a_warmed_prompt_is_on_disk(seat: Seat) -> None:
    tokens = some_tokens(PROMPT, 1)
    seat.engine.admit_warm(1, tokens, "system")
    while seat.engine.active:
        seat.engine.step()
    seat.idle()
    assert seat.on_disk(tokens) == PROMPT


def test_what_is_on_disk_is_not_written_again(seat: Seat) -> None:
    system = some_tokens(SYSTEM, 1)
    for seed in (2, 3):
        seat.chat([*system, *some_tokens(40, seed)], system=SYSTEM, in_session=True)
    seat.idle(REST_SECONDS)
    written = seat.tier.store.statistics.written_today
    seat.close()
    seat.open()
    seat.chat([*system, *some_tokens(40, 2)], system=SYSTEM, in_session=True)
    seat.idle()
    assert seat.on_disk(system) == SYSTEM
    # An index was saved; no record was added.
    assert seat.tier.store.statistics.records == 4
    assert seat.tier.store.statistics.written_today < 2 * written


def test_a_step_captures_one_record_and_copies_the_last_one(seat: Seat) -> None:
    """A system prompt is written while other rows decode, at most one chunk a step."""
    seat.admit(some_tokens(8, 9), answer=120)
    seat.admit(some_tokens(6 * CHUNK_TOKENS, 1), system=5 * CHUNK_TOKENS, answer=1)
    records = [0]
    while seat.engine.active:
        seat.engine.step()
        assert seat.tier.writer.drain(60)
        records.append(seat.tier.store.statistics.records)
    steps = [now - before for before, now in pairwise(records)]
    assert records[-1] == 5
    assert set(steps) == {0, 1}


def test_a_record_is_copied_in_parts(seat: Seat) -> None:
    seat.chat(some_tokens(PROMPT, 1))
    captured = capture(seat.entries[0].kv, Kind.DELTA, 0, CHUNK_TOKENS)
    copy = RecordCopy(captured)
    copy.evaluate()
    copies = 1
    while not copy.copy(1):
        copies += 1
    assert copies == len(captured.views) > 1
    assert copy.payload() == captured.payload()
    assert copy.nbytes == nbytes_of(copy.payload())


def test_the_state_of_a_session_that_is_evicted_is_written(seat: Seat) -> None:
    seat.chat(some_tokens(PROMPT, 1), in_session=True)
    (state,) = seat.entries
    seat.engine.trim_cache(1)
    assert not seat.entries
    seat.idle()
    assert seat.on_disk(state.tokens) == len(state.tokens)


def test_evicted_entries_take_no_more_memory_than_the_queue(seat: Seat) -> None:
    for seed in range(8):
        seat.chat(some_tokens(PROMPT, seed), in_session=True)
    states = seat.entries
    seat.tier.queue_bytes = 3 * states[0].nbytes
    seat.engine.trim_cache(GIB)
    assert seat.writer._held <= seat.tier.queue_bytes
    seat.idle()
    # There was room for three, and none for a copy of a record of theirs: one of them gave way.
    assert sum(seat.on_disk(state.tokens) == len(state.tokens) for state in states) == 2
    assert seat.writer._held == 0


def test_a_record_larger_than_the_queue_is_not_written(seat: Seat) -> None:
    seat.tier.queue_bytes = 10
    seat.chat(some_tokens(PROMPT, 1), system=SYSTEM, in_session=True)
    seat.idle(REST_SECONDS)
    assert seat.tier.store.statistics.records == 0


def test_nothing_is_captured_while_the_disk_is_off(seat: Seat, tmp_path: Path) -> None:
    seat.tier.store._folder.availability.switch_off(OSError("gone"))
    seat.chat(some_tokens(PROMPT, 1), system=SYSTEM)
    assert seat.writer.wait_seconds == OFF_WAIT
    assert seat.writer._pending is None
    seat.clock.seconds += 60
    seat.tier.store.maintain()
    seat.idle()
    assert seat.on_disk(some_tokens(PROMPT, 1)) == SYSTEM


def test_a_cleared_cache_is_cleared_on_disk_and_on_the_way(seat: Seat) -> None:
    tokens = some_tokens(PROMPT, 1)
    seat.chat(tokens, system=SYSTEM, in_session=True)
    seat.writer.advance(is_idle=True)
    seat.engine.clear_cache()
    assert seat.tier.clear()
    seat.idle(REST_SECONDS)
    assert seat.tier.store.statistics.records == 0
    assert seat.writer.wait_seconds is None
    seat.chat(tokens, system=SYSTEM)
    seat.idle()
    assert seat.on_disk(tokens) == SYSTEM


def test_finish_writes_what_has_not_rested_and_what_still_runs(seat: Seat) -> None:
    for seed in range(3):
        seat.chat(some_tokens(PROMPT, seed), in_session=True)
    seat.admit(some_tokens(PROMPT, 9), in_session=True, answer=100)
    for _ in range(20):
        seat.engine.step()
    seat.engine.cancel_all()
    states = seat.entries
    assert len(states) == 4
    seat.writer.finish(60)
    seat.close()
    seat.open()
    assert all(seat.on_disk(state.tokens) == len(state.tokens) for state in states)


def test_finish_begins_with_the_session_used_last(seat: Seat) -> None:
    for seed in range(3):
        seat.chat(some_tokens(PROMPT, seed), in_session=True)
    first, _, last = seat.entries
    seat.clock.step = 1.0  # each look at the clock takes a second
    seat.writer.finish(5)
    assert seat.tier.writer.drain(60)
    assert seat.on_disk(last.tokens) == len(last.tokens)
    assert seat.on_disk(first.tokens) == 0


def test_without_a_cut_only_the_last_two_states_of_a_session_rest(tmp_path: Path) -> None:
    seat = Seat("recurrent", tmp_path)
    tokens = some_tokens(PROMPT, 1)
    states = []
    for seed in range(3):
        seat.chat(tokens, in_session=True)
        longest = max(seat.entries, key=lambda entry: len(entry.tokens))
        states.append(longest)
        tokens = [*longest.tokens, *some_tokens(20, seed)]
    assert all(entry.retention is RetentionClass.SESSION for entry in states)
    seat.idle(REST_SECONDS)
    found = [seat.on_disk(entry.tokens) == len(entry.tokens) for entry in states]
    assert found == [False, True, True]
    seat.close()


def test_a_model_whose_kv_cannot_be_stored_has_no_tier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seat = Seat("nano", tmp_path)
    seat.close()
    seat.model.make_cache = lambda: [ChunkedKVCache(8)]
    disk = DiskCache(str(tmp_path / "other"), GIB, GIB, 0)
    with caplog.at_level("INFO"):
        assert DiskTier.open(disk, seat.model, "weights", VERSIONS) is None
    assert "ChunkedKVCache" in caplog.text
    assert not (tmp_path / "other").exists()
