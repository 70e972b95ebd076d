"""ConversationBuilder made of items: the words of each are joined once."""

import tracemalloc

import pytest

from mlx_worker.api.dialects.conversation import ConversationBuilder
from tests.call_counter import calls


def test_texts_of_a_message_are_joined() -> None:
    turns = ConversationBuilder()
    turns.add_text("system", "a")
    turns.add_text("system", "b")
    turns.add_text("user", "c")
    turns.add_text("user", "d")
    turns.add_reasoning("e")
    turns.add_reasoning("f")
    turns.add_text("assistant", "g")
    turns.add_text("assistant", "h")
    turns.add_tool_result("1", "i")
    assert turns.messages == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "c"},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "gh", "reasoning_content": "ef"},
        {"role": "tool", "tool_call_id": "1", "content": "i"},
    ]


def test_successive_user_messages_are_joined_on_request() -> None:
    turns = ConversationBuilder(join_user_messages=True)
    turns.add_text("user", "a")
    turns.add_text("user", "b")
    turns.add_text("assistant", "c")
    turns.add_text("user", "d")
    turns.add_tool_result("1", "e")
    turns.add_text("user", "f")
    turns.add_tool_result("2", "g")
    turns.add_text("system", "h")
    turns.add_text("user", "i")
    assert turns.messages == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "tool", "tool_call_id": "1", "content": "e"},
        {"role": "tool", "tool_call_id": "2", "content": "g"},
        {"role": "user", "content": "d\n\nf"},
        {"role": "system", "content": "h"},
        {"role": "user", "content": "i"},
    ]


@pytest.mark.parametrize("role", ["assistant", "system", "thought", "user"])
def test_many_texts_of_a_message_are_copied_once(role: str) -> None:
    turns = ConversationBuilder(join_user_messages=True)
    part = "x" * 1000

    def take() -> None:
        for _ in range(1000):
            if role == "thought":
                turns.add_reasoning(part)
            else:
                turns.add_text(role, part)

    tracemalloc.start()
    try:
        take()
        assert tracemalloc.get_traced_memory()[1] < 100_000, "nothing was joined yet"
    finally:
        tracemalloc.stop()
    made = calls(lambda: turns.messages)
    assert made["joined"] == (2 if role == "thought" else 1)
