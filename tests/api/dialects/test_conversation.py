"""Turns made of items: the words of each are joined once."""

import tracemalloc

import pytest

from mlx_worker.api.dialects.conversation import Turns
from tests.call_counter import calls


def test_texts_of_a_turn_are_joined() -> None:
    turns = Turns()
    turns.said("system", "a")
    turns.said("system", "b")
    turns.said("user", "c")
    turns.said("user", "d")
    turns.thought("e")
    turns.thought("f")
    turns.said("assistant", "g")
    turns.said("assistant", "h")
    turns.answered("1", "i")
    assert turns.made == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "c"},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "gh", "reasoning_content": "ef"},
        {"role": "tool", "tool_call_id": "1", "content": "i"},
    ]


def test_a_users_turns_in_a_row_are_one_where_they_are_joined() -> None:
    turns = Turns(joins_users=True)
    turns.said("user", "a")
    turns.said("user", "b")
    turns.said("assistant", "c")
    turns.said("user", "d")
    turns.answered("1", "e")
    turns.said("user", "f")
    turns.answered("2", "g")
    turns.said("system", "h")
    turns.said("user", "i")
    assert turns.made == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "tool", "tool_call_id": "1", "content": "e"},
        {"role": "tool", "tool_call_id": "2", "content": "g"},
        {"role": "user", "content": "d\n\nf"},
        {"role": "system", "content": "h"},
        {"role": "user", "content": "i"},
    ]


@pytest.mark.parametrize("role", ["assistant", "system", "thought", "user"])
def test_many_parts_of_a_turn_are_copied_once(role: str) -> None:
    turns = Turns(joins_users=True)
    part = "x" * 1000

    def take() -> None:
        for _ in range(1000):
            if role == "thought":
                turns.thought(part)
            else:
                turns.said(role, part)

    tracemalloc.start()
    try:
        take()
        assert tracemalloc.get_traced_memory()[1] < 100_000, "nothing was joined yet"
    finally:
        tracemalloc.stop()
    made = calls(lambda: turns.made)
    assert made["joined"] == (2 if role == "thought" else 1)
