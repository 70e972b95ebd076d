"""What is remembered of earlier turns, and for how long."""

from __future__ import annotations

import pytest

from mlx_worker.engine.history.memory import (
    MAX_BYTES,
    PER_TEXT,
    SampledTurn,
    TurnMemory,
    TurnPlace,
    history_bytes,
)
from mlx_worker.wire.splice import packed


def turn(name: str, *tokens: int) -> SampledTurn:
    return SampledTurn(TurnPlace("<|>", name.encode(), "assistant\n", "normal"), packed(tokens))


def test_memory_is_a_share_of_the_prompt_cache() -> None:
    assert history_bytes(0) == 0
    assert history_bytes(16 << 20) == 1 << 20
    assert history_bytes(1 << 40) == MAX_BYTES


def test_memory_full_forgets_what_was_used_least_lately() -> None:
    one, two, three = turn("1", 1), turn("2", 2), turn("3", 3)
    memory = TurnMemory(one.nbytes + two.nbytes)
    memory.add(one)
    memory.add(two)
    assert memory.answers_to(b"1") == [one]
    memory.add(three)
    assert [memory.answers_to(name) for name in (b"1", b"2", b"3")] == [[one], [], [three]]
    assert memory.nbytes == one.nbytes + three.nbytes


def test_memory_without_bytes_remembers_nothing() -> None:
    memory = TurnMemory(0)
    memory.add(turn("1", 1))
    assert memory.answers_to(b"1") == []
    assert memory.nbytes == 0


def test_memory_keeps_the_newest_answers_to_one_text() -> None:
    memory = TurnMemory(1 << 20)
    turns = [turn("1", number) for number in range(PER_TEXT + 3)]
    for each in turns:
        memory.add(each)
    assert memory.answers_to(b"1") == turns[3:]
    assert memory.nbytes == sum(each.nbytes for each in turns[3:])


def test_memory_same_answer_again_is_one() -> None:
    memory = TurnMemory(1 << 20)
    first = turn("1", 1, 2)
    for each in (first, turn("1", 3), turn("1", 1, 2)):
        memory.add(each)
    assert memory.answers_to(b"1")[-1] is first
    assert len(memory.answers_to(b"1")) == 2
    assert memory.nbytes == 2 * first.nbytes - 4


def test_memory_cleared_has_nothing() -> None:
    memory = TurnMemory(1 << 20)
    memory.add(turn("1", 1))
    memory.clear()
    assert (memory.answers_to(b"1"), memory.anchors, memory.nbytes) == ([], [], 0)


@pytest.mark.parametrize("tokens", [[], [0], [1, 70_000, 4_000_000_000]])
def test_packed_tokens_are_unpacked(tokens: list[int]) -> None:
    assert len(packed(tokens)) == 4 * len(tokens)
