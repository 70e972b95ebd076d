"""Turns on disk: after a restart a conversation has all of its KV again, and nothing is wrong."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from mlx_worker.engine.history.memory import SampledTurn, TurnPlace
from mlx_worker.engine.kv.disk.entry_writer import REST_SECONDS
from mlx_worker.engine.kv.disk.turn_records import address_of, record_of, turn_of
from mlx_worker.engine.kv.disk.turn_writer import load_turns
from mlx_worker.kv_disk.files.payload import BadRecord, LayerFamily
from mlx_worker.wire.splice import packed
from tests.agent_bench import Job, run
from tests.agent_templates import FAMILIES, AgentFamily
from tests.agent_traces import play
from tests.engine.kv.disk.turns_harness import DiskBench
from tests.kv_disk.test_corruption import DAMAGES, files_of, restore, set_time
from tests.rounds import SEED, rounds, variants

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.kv_disk.files.payload import Payload
    from mlx_worker.wire.request import ChatRequest

HERMES = next(family for family in FAMILIES if family.name == "hermes")
SEVERAL_TURNS = 1
"""The seed of a conversation with several turns."""


@pytest.fixture
def bench(tmp_path: Path) -> DiskBench:
    return DiskBench(HERMES, tmp_path)


def turn(*tokens: int, anchor: str = "<|im_start|>", state: str = "normal") -> SampledTurn:
    place = TurnPlace(anchor, bytes(range(16)), "assistant\n", state)
    return SampledTurn(place, packed(tokens), "stop")


def shortened(request: ChatRequest) -> ChatRequest:
    return msgspec.structs.replace(request, max_tokens=4)


# --- conversations ------------------------------------------------------------------------


@pytest.mark.parametrize("family", variants(FAMILIES, [HERMES]), ids=lambda family: family.name)
def test_turn_after_each_restart_is_cached_as_without_one(
    family: AgentFamily, tmp_path: Path
) -> None:
    bench = DiskBench(family, tmp_path)
    tally = play(bench, range(rounds(2, 8, 60)), width=1, between=bench.restart)
    assert tally.wrong == []
    assert tally.seen["whole"] > tally.turns / 3


def test_turn_after_a_kill_is_cached_if_it_had_rested(bench: DiskBench) -> None:
    def rest_and_die() -> None:
        bench.idle(REST_SECONDS)
        bench.die()
        bench.begin()

    assert play(bench, [SEVERAL_TURNS], between=rest_and_die).wrong == []


def test_kv_without_the_turns_is_read_again(bench: DiskBench) -> None:
    """What the others prove is no property of the conversations."""

    def restart() -> None:
        bench.leave()
        bench.begin(with_turns=False)

    tally = play(bench, range(2), fresh=False, between=restart)
    assert tally.wrong
    assert tally.cached < tally.resident


# --- when, and for how long ---------------------------------------------------------------


def test_turns_are_written_when_their_session_has_rested(bench: DiskBench) -> None:
    play(bench, [SEVERAL_TURNS], fresh=False)
    assert len(bench.prompts) > 1
    bench.idle()
    assert bench.turns_on_disk == set()
    bench.idle(REST_SECONDS)
    assert len(bench.turns_on_disk) == len(bench.prompts)


@pytest.mark.full
def test_turn_of_an_anonymous_prompt_is_written_when_used_again(bench: DiskBench) -> None:
    bench.in_session = False
    play(bench, [SEVERAL_TURNS], fresh=False)
    bench.idle(REST_SECONDS)
    # That of the last answer, at least, was not used.
    assert len(bench.turns_on_disk) < len(bench.prompts)


@pytest.mark.full
def test_turns_written_once_are_not_written_again(bench: DiskBench) -> None:
    play(bench, [SEVERAL_TURNS], fresh=False, between=bench.restart)
    before = bench.turns_on_disk
    answered, prompt = bench.prompt(bench.asked[-1])
    assert len(prompt.splices) > 1
    run(bench.engine, [Job(shortened(answered), prompt)], in_session=True)
    bench.idle(REST_SECONDS)
    assert before < bench.turns_on_disk
    assert len(bench.turns_on_disk) == len(before) + 1


def test_cleared_turns_are_gone_from_memory_and_disk(bench: DiskBench) -> None:
    play(bench, [SEVERAL_TURNS], fresh=False)
    bench.idle(REST_SECONDS)
    bench.engine.clear_cache()
    assert bench.tier.clear()
    bench.idle(REST_SECONDS)
    bench.restart()
    assert bench.turns_on_disk == set()
    assert bench.engine.history.nbytes == 0


def test_turns_of_other_weights_are_not_loaded(bench: DiskBench) -> None:
    play(bench, [SEVERAL_TURNS], fresh=False)
    bench.leave()
    bench.begin("other weights")
    assert bench.engine.history.nbytes == 0


@pytest.mark.full
def test_turns_that_are_not_remembered_are_not_written(tmp_path: Path) -> None:
    bench = DiskBench(HERMES, tmp_path, remembers=False)
    play(bench, [SEVERAL_TURNS], fresh=False)
    bench.idle(REST_SECONDS)
    assert bench.turns_on_disk == set()
    assert bench.tier.store.statistics.records > 0


def test_turns_over_the_bound_are_left_the_latest_are_loaded(bench: DiskBench) -> None:
    store, identity = bench.tier.store, bench.tier.identity
    turns = [turn(number, 7) for number in range(5)]
    for each in turns:
        record = record_of(identity, each)
        assert record is not None
        store.put(record, essential=True)
    assert store.use(address_of(identity, turns[0]))
    two = 2 * turns[0].nbytes
    loaded = load_turns(store, identity, two, bench.clock)
    assert [each.tokens for each in loaded] == [turns[4].tokens, turns[0].tokens]
    assert store.statistics.hits == 0


# --- what a file says ---------------------------------------------------------------------


def test_a_damaged_folder_never_gives_a_wrong_token(
    bench: DiskBench, caplog: pytest.LogCaptureFixture
) -> None:
    play(bench, [SEVERAL_TURNS], fresh=False)
    request = bench.asked[-1]
    sound = set(bench.prompts[-1].splices)
    assert len(sound) > 1
    bench.leave()
    files = files_of(bench.kv)
    lost = damaged = 0
    answers: dict[tuple[int, ...], list[int]] = {}
    for case in range(rounds(12, 100, 1000)):
        restore(bench.kv, files)
        chooser = random.Random(SEED * 100_000 + case)
        for _ in range(chooser.randint(1, 3)):
            paths = sorted(path for path in bench.kv.glob("*/*") if path.stat().st_size)
            if paths:
                chooser.choice(DAMAGES)(chooser.choice(paths), chooser)
        bench.begin()
        answered, prompt = bench.prompt(request)
        assert set(prompt.splices) <= sound
        lost += len(prompt.splices) < len(sound)
        damaged += bench.tier.store.statistics.corrupt > 0
        short = shortened(answered)
        (outcome,) = run(bench.engine, [Job(short, prompt)])
        tokens = tuple(prompt.tokens)
        if tokens not in answers:
            answers[tokens] = run(bench.forgetful, [Job(short, prompt)])[0].tokens
        assert outcome.tokens == answers[tokens]
        bench.die()
    assert lost
    assert len(answers) > 1


def test_turn_comes_back_from_its_record(bench: DiskBench) -> None:
    identity = bench.tier.identity
    each = turn(5, 70_000)
    record = record_of(identity, each)
    assert record is not None
    found = turn_of(identity, record.address, record.payload)
    assert (found.place, found.tokens, found.stop) == (each.place, each.tokens, each.stop)


def test_record_that_says_anything_else_is_refused(bench: DiskBench) -> None:
    """Not only damage: the right checksum of another version, or of a wrong hand."""
    identity = bench.tier.identity
    record = record_of(identity, turn(5, 7))
    assert record is not None
    (layer,) = record.payload
    wrong: list[Payload] = [(), (layer, layer), (replace(layer, family=LayerFamily.NONE),)]
    for place, array in enumerate(layer.arrays):
        assert array is not None
        for other in (None, replace(array, data=bytes(array.data)[:-1] + b"!")):
            arrays = (*layer.arrays[:place], other, *layer.arrays[place + 1 :])
            wrong.append((replace(layer, arrays=arrays),))
    for payload in wrong:
        with pytest.raises(BadRecord):
            turn_of(identity, record.address, payload)


def test_turns_that_the_model_cannot_have_sampled_are_refused_in_one_line(
    bench: DiskBench, caplog: pytest.LogCaptureFixture
) -> None:
    right = turn(5, 7)
    strange = [
        turn(5, len(bench.tokenizer)),
        turn(5, anchor="<no added token>"),
        turn(5, state="a state of another format"),
    ]
    for each in (*strange, right):
        record = record_of(bench.tier.identity, each)
        assert record is not None
        bench.tier.store.put(record, essential=True)
    bench.restart()
    assert bench.engine.history.nbytes == right.nbytes
    (line,) = [entry for entry in caplog.records if "no use" in entry.getMessage()]
    assert line.levelno == logging.WARNING


def test_damaged_turns_are_counted_and_said_in_one_line(
    bench: DiskBench, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        record = record_of(bench.tier.identity, turn(number, 7))
        assert record is not None
        bench.tier.store.put(record, essential=True)
    bench.leave()
    (segment,) = bench.kv.glob("*/*.seg")
    content = segment.read_bytes()
    changed = segment.stat().st_mtime_ns
    segment.write_bytes(content.replace(b"stop", b"stoq"))
    set_time(segment, changed)
    bench.begin()
    assert bench.tier.store.statistics.corrupt == 3
    assert bench.engine.history.nbytes == 0
    (_,) = [entry for entry in caplog.records if "are damaged" in entry.getMessage()]
