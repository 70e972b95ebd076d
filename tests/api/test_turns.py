"""Turns made of items: the words of each are joined once."""

import tracemalloc

import pytest

from mlx_worker.api.turns import Turns
from tests.counted import calls


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


@pytest.mark.parametrize("role", ["assistant", "system", "thought"])
def test_many_parts_of_a_turn_are_copied_once(role: str) -> None:
    turns = Turns()
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
