"""Prompts that a former process has read are read from disk, and the answers are the same."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import mlx.core as mx
import pytest

from mlx_worker.engine.kv.disk.reading import PATIENCE, READS
from mlx_worker.engine.kv.disk.reading_choice import ReadSpeed
from mlx_worker.engine.kv.prompt_cache import RetentionClass
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.kv_disk.files.records import Address, Kind
from mlx_worker.kv_disk.reader import THREADS
from mlx_worker.wire.messages import PrefillProgress
from mlx_worker.wire.request import PromptScoring
from tests.engine.kv.disk.reading_harness import SECONDS, Place, Process, random_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.mark import ParameterSet


def full(value: object) -> ParameterSet:
    return pytest.param(value, marks=pytest.mark.full)


FAMILIES = ["tiny", "window", "delta", *map(full, ("statespace", "recurrent", "unpadded"))]
CUTTABLE = ["tiny"]
LONG = random_tokens(700, 1)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("tiny", tmp_path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the KV of `LONG` and of the answer to it."""
    place = Place("tiny", tmp_path_factory.mktemp("template"))
    first = place.open()
    first.chat(LONG)
    first.leave()
    return place.folder


@pytest.fixture
def written(place: Place, template: Path) -> Place:
    """A folder like the template."""
    shutil.copytree(template, place.folder)
    return place


ANSWERS: dict[tuple[str, tuple[int, ...], int], list[int]] = {}


def without_disk(place: Place, tokens: list[int], answer: int = 4) -> list[int]:
    """The answer to a prompt that is read as a whole."""
    key = place.name, tuple(tokens), answer
    if key not in ANSWERS:
        ANSWERS[key] = place.without_disk().tokens_of(tokens, answer=answer)
    return ANSWERS[key]


def addresses(names: list[bytes]) -> list[Address]:
    return [Address(Kind(name[0]), name[1:]) for name in names]


# --- exact, in every family ---


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_goes_on_after_a_restart(name: str, tmp_path: Path) -> None:
    place = Place(name, tmp_path)
    first = place.open()
    answer = first.tokens_of(LONG, answer=8)
    first.leave()
    turn = LONG + answer + random_tokens(40, 2)
    second = place.open()
    id_ = second.chat(turn, answer=12)
    started = second.heard.started[id_]
    assert started.cached_tokens == started.disk_tokens == len(LONG) + 8
    assert second.heard.tokens[id_] == without_disk(place, turn, answer=12)
    assert {
        address.kind for address in addresses(started.disk_records)
    } == second.reading._tier.kinds
    assert second.store.asked == addresses(started.disk_records)


@pytest.mark.parametrize("name", FAMILIES)
def test_restored_kv_gives_the_logits_of_the_entry_that_was_written(
    name: str, tmp_path: Path
) -> None:
    place = Place(name, tmp_path)
    first = place.open()
    first.chat(LONG, answer=30)
    tokens = max((entry.tokens for entry in first.engine.cache._entries.values()), key=len)
    assert len(tokens) > len(LONG)
    first.write()
    first.die()
    second = place.open()
    second.chat([*tokens, 17], answer=1)
    (one, _), (two, length) = (
        process.engine.cache.fetch([*tokens, 17]) for process in (first, second)
    )
    assert length == len(tokens)
    for steps in ([17], [18], [19, 20, 21], [22]):
        logits = [place.model(mx.array([steps]), cache=kv) for kv in (one, two)]
        assert bytes(memoryview(logits[0])) == bytes(memoryview(logits[1]))


def test_a_prompt_that_parts_is_read_from_the_last_whole_chunk_they_share(written: Place) -> None:
    other = LONG[:600] + random_tokens(100, 3)
    second = written.open()
    id_ = second.chat(other)
    assert second.heard.started[id_].cached_tokens == 2 * CHUNK_TOKENS
    assert second.heard.tokens[id_] == without_disk(written, other)


@pytest.mark.parametrize("name", ["window", full("recurrent")])
def test_a_window_serves_its_very_end_only(name: str, tmp_path: Path) -> None:
    place = Place(name, tmp_path)
    first = place.open()
    first.chat(LONG)
    first.leave()
    other = LONG[:600] + random_tokens(100, 3)
    second = place.open()
    id_ = second.chat(other)
    assert second.heard.started[id_].cached_tokens == 0
    assert not second.store.asked
    assert second.heard.tokens[id_] == without_disk(place, other)


def test_the_last_token_of_a_prompt_is_read_by_the_model(place: Place) -> None:
    tokens = random_tokens(2 * CHUNK_TOKENS, 4)
    first = place.open()
    first.chat([*tokens, 5])
    first.leave()
    second = place.open()
    id_ = second.chat(tokens)
    assert second.heard.started[id_].cached_tokens == CHUNK_TOKENS
    assert second.heard.tokens[id_] == without_disk(place, tokens)


def test_replayed_tokens_are_read_from_disk_too(place: Place) -> None:
    whole = without_disk(place, LONG, answer=100)
    first = place.open()
    id_ = first.admit(LONG, answer=100)
    first.run(lambda: len(first.heard.tokens.get(id_, [])) >= 80)
    first.engine.cancel(id_)
    first.leave()
    replay = first.heard.tokens[id_]
    second = place.open()
    id_ = second.chat(LONG, answer=100, replay=replay)
    assert replay + second.heard.tokens[id_] == whole
    assert second.heard.started[id_].cached_tokens == len(LONG)
    assert second.engine.prefilled_tokens == 700 + 80 - 3 * CHUNK_TOKENS


# --- memory and disk ---


def test_what_is_in_memory_is_not_read_from_disk(written: Place) -> None:
    second = written.open()
    second.chat(LONG)
    asked = len(second.store.asked)
    id_ = second.chat(LONG)
    started = second.heard.started[id_]
    assert len(second.store.asked) == asked
    assert started.cached_tokens == len(LONG) - 1
    assert (started.disk_tokens, started.disk_records) == (0, [])


@pytest.mark.parametrize("name", ["tiny", "delta", full("window")])
def test_only_what_memory_lacks_is_read(name: str, tmp_path: Path) -> None:
    place = Place(name, tmp_path)
    first = place.open()
    turn = LONG + first.tokens_of(LONG) + random_tokens(20, 5)
    first.leave()
    second = place.open()
    second.chat(LONG[:300] + random_tokens(9, 5), system=300)
    asked = len(second.store.asked)
    id_ = second.chat(turn, system=300)
    more = second.store.asked[asked:]
    assert sum(address.kind is Kind.DELTA for address in more) == 2
    assert second.heard.tokens[id_] == without_disk(place, turn)
    started = second.heard.started[id_]
    assert (started.cached_tokens, started.disk_tokens) == (704, 704 - CHUNK_TOKENS)


def test_a_system_prefix_comes_back_as_one(place: Place) -> None:
    first = place.open()
    first.chat(LONG[:400] + random_tokens(80, 6), system=400, in_session=False)
    first.leave()
    second = place.open()
    id_ = second.chat(LONG[:400] + random_tokens(80, 7), system=400, in_session=False)
    started = second.heard.started[id_]
    assert started.cache_hit
    assert not started.miss
    assert (started.cached_tokens, started.disk_tokens) == (400, 400)
    kinds = {len(entry.tokens): entry.retention for entry in second.engine.cache._entries.values()}
    assert kinds[400] is RetentionClass.SYSTEM_PROMPT


def test_a_prompt_that_is_warmed_is_read_from_disk(place: Place) -> None:
    first = place.open()
    first.warm(LONG)
    first.run()
    first.leave()
    second = place.open()
    id_ = second.warm(LONG)
    second.run()
    assert second.heard.warmed == {id_: len(LONG)}
    assert second.engine.prefilled_tokens == 0
    assert second.store.asked
    (entry,) = second.engine.cache._entries.values()
    assert entry.retention is RetentionClass.PINNED


def test_a_scored_prompt_is_not_read_from_disk(written: Place) -> None:
    second = written.open()
    id_ = second.chat(LONG, prompt_scoring=PromptScoring(echoed=0))
    assert second.heard.started[id_].cached_tokens == 0
    assert not second.store.asked


def test_kv_that_would_not_fit_in_memory_is_not_read(written: Place) -> None:
    second = written.open(cache_bytes=1 << 10)
    id_ = second.chat(LONG)
    assert not second.store.asked
    assert second.heard.tokens[id_] == without_disk(written, LONG)


# --- the choice ---


def test_a_disk_slower_than_the_model_is_not_read(written: Place) -> None:
    second = written.open()
    second.reading._choice.speed = ReadSpeed(1.0)
    id_ = second.chat(LONG)
    assert not second.store.asked
    assert second.heard.started[id_].cached_tokens == 0


def test_reads_are_counted_and_measured(written: Place) -> None:
    second = written.open()
    second.reading._choice.speed = ReadSpeed(1e12)
    written.seconds = 5.0  # a clock that stands: no read takes any time
    second.chat(LONG)
    state = second.tier.state
    assert state.hits == len(second.store.asked)
    assert state.hit_tokens == len(LONG) - 1 - (len(LONG) - 1) % CHUNK_TOKENS
    assert state.seconds_saved > 0


# --- beside others ---


def test_others_decode_while_a_sequence_waits_for_the_disk(written: Place) -> None:
    second = written.open()
    one = second.admit(random_tokens(20, 8), answer=80)
    second.run(lambda: one in second.heard.tokens)
    second.store.hold()
    two = second.admit(LONG)
    before = len(second.heard.tokens[one])
    for _ in range(20):
        second.step()
    assert len(second.heard.tokens[one]) == before + 20
    assert two not in second.heard.started
    second.store.let_go()
    second.run(lambda: two in second.heard.done)
    assert one not in second.heard.done
    assert second.heard.started[two].disk_tokens == 2 * CHUNK_TOKENS
    second.run()
    assert second.heard.tokens[one] == without_disk(written, random_tokens(20, 8), answer=80)


def test_others_start_while_a_sequence_waits_for_the_disk(written: Place) -> None:
    second = written.open()
    second.store.hold()
    one = second.admit(LONG)
    assert second.engine.awaits_disk
    two = second.admit(random_tokens(300, 9))
    assert not second.engine.awaits_disk
    second.run(lambda: two in second.heard.done)
    assert one not in second.heard.started
    second.store.let_go()
    second.run()
    assert one in second.heard.done


@pytest.mark.parametrize("parting", [full(700), 600, full(30)])
def test_sequences_that_share_a_chain_read_it_once(written: Place, parting: int) -> None:
    second = written.open()
    second.store.hold()
    prompts = [LONG, LONG, LONG[:parting] + random_tokens(50, 10)]
    ids = [second.admit(prompt) for prompt in prompts]
    second.store.let_go()
    second.run()
    assert len(second.store.asked) == len(set(second.store.asked))
    for id_, prompt in zip(ids, prompts, strict=True):
        assert second.heard.tokens[id_] == without_disk(written, prompt)


@pytest.mark.full
@pytest.mark.parametrize("name", ["tiny", full("recurrent")])
def test_chains_beyond_the_number_read_at_a_time_wait(name: str, tmp_path: Path) -> None:
    place = Place(name, tmp_path)
    prompts = [random_tokens(400, 20 + number) for number in range(READS + 2)]
    first = place.open()
    answers = [first.tokens_of(prompt) for prompt in prompts]
    first.leave()
    turns = [[*prompt, *answer, 9] for prompt, answer in zip(prompts, answers, strict=True)]
    second = place.open()
    second.store.hold()
    ids = [second.admit(turn) for turn in turns]
    second.step()
    assert len(second.reading._reads) == READS
    second.store.let_go()
    second.run()
    assert all(second.heard.started[id_].disk_tokens == 404 for id_ in ids)
    for id_, turn in zip(ids, turns, strict=True):
        assert second.heard.tokens[id_] == without_disk(place, turn)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Place, list[list[int]], int]:
    """Two prompts whose KV is on disk, and the bytes of both."""
    place = Place("tiny", tmp_path)
    prompts = [random_tokens(700, 40), random_tokens(700, 41)]
    first = place.open()
    for prompt in prompts:
        first.chat(prompt)
    nbytes = first.engine.cache.facts.nbytes
    first.leave()
    return place, prompts, nbytes


@pytest.mark.full
def test_chains_that_do_not_fit_in_memory_together_are_read_one_by_one(
    two: tuple[Place, list[list[int]], int],
) -> None:
    place, prompts, nbytes = two
    second = place.open(cache_bytes=nbytes * 5 // 8)
    second.store.hold()
    ids = [second.admit(prompt) for prompt in prompts]
    second.step()
    assert len(second.reading._reads) == 1
    second.engine.cancel(ids[0])
    second.store.let_go()
    second.run()
    assert second.heard.started[ids[1]].disk_tokens
    assert second.heard.tokens[ids[1]] == without_disk(place, prompts[1])
    assert second.engine.cache.reserved == 0


def test_a_chain_without_memory_beside_running_rows_is_read_by_the_model(
    two: tuple[Place, list[list[int]], int],
) -> None:
    place, prompts, nbytes = two
    second = place.open(cache_bytes=nbytes * 5 // 8)
    second.store.hold()
    ids = [second.admit(prompts[0], answer=200), second.admit(prompts[1])]
    second.store.let_go()
    second.run(lambda: ids[1] in second.heard.done)
    assert ids[0] not in second.heard.done  # no row has to leave for the second prompt
    assert second.heard.started[ids[0]].disk_tokens
    assert not second.heard.started[ids[1]].disk_tokens
    assert second.heard.tokens[ids[1]] == without_disk(place, prompts[1])


@pytest.mark.full
def test_a_restored_chain_is_used_where_a_row_has_grown_meanwhile(
    two: tuple[Place, list[list[int]], int],
) -> None:
    place, prompts, nbytes = two
    second = place.open(cache_bytes=nbytes * 3 // 4)
    second.store.hold()
    ids = [second.admit(prompts[0], answer=200), second.admit(prompts[1])]
    second.step()
    assert len(second.reading._reads) == READS
    second.store.let_go()
    second.run()
    for id_, prompt in zip(ids, prompts, strict=True):
        assert second.heard.started[id_].disk_tokens
        asked = 200 if id_ == ids[0] else 4
        assert second.heard.tokens[id_] == without_disk(place, prompt, answer=asked)
    facts = second.engine.cache.facts
    assert facts.nbytes <= facts.capacity
    assert second.engine.cache.reserved == 0


def test_progress_is_told_while_records_arrive(written: Place) -> None:
    second = written.open()
    second.store.hold()
    id_ = second.admit(LONG)
    second.store.let_go(1)
    second.run(lambda: id_ in second.heard.progress)
    assert id_ not in second.heard.started
    second.store.let_go()
    second.run()
    # Two records may arrive between two steps: then only the second one is told of.
    read = {done for done in second.heard.progress[id_] if done <= 2 * CHUNK_TOKENS}
    assert {0, 2 * CHUNK_TOKENS} <= read <= {0, CHUNK_TOKENS, 2 * CHUNK_TOKENS}
    assert id_ in second.heard.done


def test_records_are_named_before_any_of_their_bytes_is_used(written: Place) -> None:
    second = written.open()
    id_ = second.admit(LONG)
    while not second.reading.has_work:
        pass
    (message,) = second.engine.step()
    assert isinstance(message, PrefillProgress)
    assert (message.id, message.done) == (id_, 0)
    assert not any(read.added for read in second.reading._reads)
    second.run()
    assert second.heard.started[id_].disk_records == message.disk_records


# --- ends in the middle of a read ---


def is_quiet(process: Process) -> bool:
    return not process.reading.is_reading


def test_a_sequence_that_is_cancelled_is_not_read_for(written: Place) -> None:
    second = written.open()
    second.store.hold()
    id_ = second.admit(LONG)
    second.store.wait_until_asked()
    done = second.engine.cancel(id_)
    assert done is not None
    assert is_quiet(second)
    assert not second.engine.active
    second.store.let_go()
    assert second.tokens_of(LONG) == without_disk(written, LONG)
    assert not second.reading._reader.nbytes


def test_a_cancel_leaves_the_read_to_others_who_wait_for_it(written: Place) -> None:
    second = written.open()
    second.store.hold()
    one, two = second.admit(LONG), second.admit(LONG)
    second.step()
    second.engine.cancel(one)
    second.store.let_go()
    second.run()
    assert second.heard.tokens[two] == without_disk(written, LONG)
    assert second.heard.started[two].cached_tokens


def test_what_was_cleared_in_the_middle_of_a_read_is_not_restored(written: Place) -> None:
    second = written.open()
    second.store.hold()
    id_ = second.admit(LONG)
    second.store.wait_until_asked()
    second.engine.clear_cache()
    assert is_quiet(second)
    second.store.let_go()
    second.run()
    assert second.heard.started[id_].cached_tokens == 0
    assert second.heard.tokens[id_] == without_disk(written, LONG)


def test_a_disk_that_hangs_is_given_up(written: Place) -> None:
    second = written.open()
    second.store.hold()
    one = second.admit(LONG)
    second.store.wait_until_asked()
    assert second.reading.seconds_left == PATIENCE
    written.seconds += PATIENCE
    assert second.reading.seconds_left == 0
    while second.engine.active:
        second.step()
    assert second.heard.started[one].cached_tokens == 0
    asked = len(second.store.asked)
    second.engine.cache.clear()
    two = second.chat(LONG)  # the disk still hangs
    assert len(second.store.asked) == asked
    assert second.heard.tokens[one] == second.heard.tokens[two] == without_disk(written, LONG)
    second.store.let_go()


@pytest.mark.full
def test_a_disk_that_hangs_before_a_read_begins_is_not_asked_again(tmp_path: Path) -> None:
    place = Place("tiny", tmp_path)
    prompts = [random_tokens(1300, 31), random_tokens(600, 32)]
    first = place.open()
    for prompt in prompts:
        first.chat(prompt)
    first.leave()
    second = place.open()
    second.store.hold()
    second.reading._reader._thread_bytes = 1
    ids = [second.admit(prompt) for prompt in prompts]  # the first one takes all threads
    second.store.wait_until_asked(THREADS)
    second.step()
    assert len(second.reading._reads) == READS
    place.seconds += PATIENCE
    while second.engine.active:
        second.step()
    second.engine.cache.clear()
    ids.append(second.admit(prompts[1]))
    assert not second.reading.is_reading
    second.run()
    assert len(second.store.asked) == THREADS
    second.store.let_go()
    for id_, prompt in zip(ids, [*prompts, prompts[1]], strict=True):
        assert second.heard.tokens[id_] == without_disk(place, prompt)
    limit = time.monotonic() + SECONDS
    while second.reading._given_up.hang:  # until the last of the threads has come back
        assert time.monotonic() < limit
    second.engine.cache.clear()
    assert second.heard.started[second.chat(prompts[1])].disk_tokens


# --- records that are not right ---


def addresses_on_disk(place: Place, tokens: list[int]) -> list[Address]:
    """What a process reads for a prompt."""
    process = place.open()
    id_ = process.chat(tokens, answer=1)
    process.die()
    return addresses(process.heard.started[id_].disk_records)


@pytest.mark.parametrize("name", ["tiny", "delta"])
@pytest.mark.parametrize("lost", [full(0), 1, full(2)])
def test_the_prompt_is_read_where_a_record_is_missing(name: str, lost: int, tmp_path: Path) -> None:
    place = Place(name, tmp_path)
    first = place.open()
    turn = LONG + first.tokens_of(LONG) + random_tokens(9, 11)
    first.leave()
    address = addresses_on_disk(place, turn)[lost]
    second = place.open()
    second.store.instead[address] = None
    id_ = second.chat(turn)
    whole = lost * CHUNK_TOKENS if name in CUTTABLE else 0
    assert second.heard.started[id_].cached_tokens == whole
    assert second.heard.started[id_].disk_tokens == whole
    assert second.heard.tokens[id_] == without_disk(place, turn)


def test_a_damaged_record_is_as_if_it_were_not_there(written: Place) -> None:
    (segment,) = written.folder.glob("*/*.seg")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    second = written.open()
    id_ = second.chat(LONG)
    assert second.heard.started[id_].cached_tokens == CHUNK_TOKENS
    assert second.heard.tokens[id_] == without_disk(written, LONG)


def test_a_record_of_another_shape_is_refused_and_deleted(written: Place) -> None:
    _, address = addresses_on_disk(written, LONG)
    second = written.open()
    payload = second.store.get(address)
    assert payload is not None
    second.store.instead[address] = tuple(
        replace(
            layer,
            arrays=tuple(
                array and replace(array, shape=tuple(array.shape[axis] for axis in (0, 3, 2, 1)))
                for array in layer.arrays
            ),
        )
        for layer in payload
    )
    id_ = second.chat(LONG)
    assert second.heard.started[id_].cached_tokens == CHUNK_TOKENS
    assert second.heard.tokens[id_] == without_disk(written, LONG)
    called = threading.Event()
    second.reading._reader.call(called.set)
    assert called.wait(SECONDS)
    assert not second.store.contains(address)


# --- suspicion ---


def names_on_disk(place: Place) -> list[bytes]:
    return [bytes([kind]) + key for kind, key in addresses_on_disk(place, LONG)]


def wait_for_calls(process: Process) -> None:
    """Wait until the threads of the reader have done all that they were given."""
    called = [threading.Event() for _ in range(4)]
    for event in called:
        process.reading._reader.call(event.set)
    assert all(event.wait(SECONDS) for event in called)


def test_suspects_are_not_read_beside_others(written: Place) -> None:
    names = names_on_disk(written)
    second = written.open(suspects=names)
    one = second.admit(random_tokens(20, 12), answer=50)
    two = second.admit(LONG)
    second.run()
    assert not second.store.asked
    assert second.heard.started[two].cached_tokens == 0
    assert one in second.heard.done


def test_suspects_are_tried_apart_and_then_used_again(written: Place) -> None:
    names = names_on_disk(written)
    second = written.open(suspects=names)
    second.store.hold()
    one = second.admit(LONG)
    two = second.admit(random_tokens(300, 13))
    for _ in range(3):
        second.step()
    assert two not in second.heard.started  # nothing else is in work meanwhile
    assert second.engine.awaits_disk
    second.store.let_go()
    second.run(lambda: one in second.heard.started)
    assert two not in second.heard.started
    second.run()
    assert second.store.apart == [True, True]
    assert second.heard.started[one].disk_records == names
    assert second.heard.tokens[one] == without_disk(written, LONG)
    assert second.heard.tokens[two] == without_disk(written, random_tokens(300, 13))
    wait_for_calls(second)
    assert all(map(second.store.contains, addresses(names)))
    second.die()
    third = written.open()
    third.chat(LONG)
    assert third.store.apart == [False, False]


def test_suspects_at_which_a_process_dies_again_are_deleted(written: Place) -> None:
    names = names_on_disk(written)
    second = written.open(suspects=names)
    second.admit(LONG)
    second.run(lambda: second.heard.progress)
    second.die()
    third = written.open(suspects=names)
    id_ = third.chat(LONG)
    assert not third.store.asked
    assert third.heard.started[id_].cached_tokens == 0
    assert third.heard.tokens[id_] == without_disk(written, LONG)


def test_a_trial_that_is_cancelled_holds_no_other_up(written: Place) -> None:
    names = names_on_disk(written)
    second = written.open(suspects=names)
    second.store.hold()
    one, two = second.admit(LONG), second.admit(random_tokens(300, 14))
    second.store.wait_until_asked()
    second.engine.cancel(one)
    second.run()
    assert two in second.heard.done
    second.store.let_go()


def test_a_trial_without_a_result_holds_no_other_up(written: Place) -> None:
    names = names_on_disk(written)
    second = written.open(suspects=names)
    second.store.instead = dict.fromkeys(addresses(names))
    one, two = second.admit(LONG), second.admit(random_tokens(300, 15))
    second.run()
    assert second.heard.tokens[one] == without_disk(written, LONG)
    assert two in second.heard.done


def test_names_of_no_record_are_no_suspects(written: Place) -> None:
    second = written.open(suspects=[b"", b"\x09" + bytes(32), b"\x01"])
    id_ = second.chat(LONG)
    assert second.heard.started[id_].cached_tokens
