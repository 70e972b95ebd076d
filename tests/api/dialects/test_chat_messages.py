"""The messages of a chat completion as turns for a template."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mlx_worker.api.dialects.attachments import last_user_message
from mlx_worker.api.dialects.chat.request import parse
from mlx_worker.errors import InvalidRequest, UnsupportedField

U: dict[str, Any] = {"role": "user", "content": "hi"}
A: dict[str, Any] = {"role": "assistant", "content": "yes"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLED: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "c1", "content": "wide"}

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
IMAGE = "[image omitted: this model reads text only]"
DOCUMENT = "[document omitted: this model reads text only]"


def asked(*messages: dict[str, Any], **fields: Any) -> Any:
    return parse(json.dumps({"messages": messages} | fields).encode()).chats[0]


def contents(*messages: dict[str, Any], **fields: Any) -> list[str]:
    return [turn["content"] for turn in asked(*messages, **fields).messages]


def refused(*messages: dict[str, Any], **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(*messages, **fields)
    return caught.value


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": parts}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def refusal(words: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": words}


def file(data: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": data} | more}


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"content": [refusal("I cannot")]}, "I cannot"),
        ({"content": [text("So: "), refusal("I cannot")]}, "So: I cannot"),
        ({"content": [refusal("I can"), refusal("not")]}, "I cannot"),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"refusal": "I cannot"}, "I cannot"),
        ({"content": "", "refusal": "I cannot"}, "I cannot"),
        ({"content": [], "refusal": "I cannot"}, "I cannot"),
        ({"content": "So.", "refusal": "I cannot"}, "So.\n\nI cannot"),
        ({"content": [text("So.")], "refusal": "I cannot"}, "So.\n\nI cannot"),
        ({"content": "I cannot", "refusal": "I cannot"}, "I cannot"),
        ({"content": "yes", "refusal": None}, "yes"),
        ({"content": "yes", "refusal": ""}, "yes"),
    ],
    ids=str,
)
def test_refusal_in_the_history_is_assistant_text(message: dict[str, Any], words: str) -> None:
    """OpenAI's reference: the parts of an assistant's message are `text` and `refusal`."""
    turns = asked(U, {"role": "assistant"} | message, U).messages
    assert turns[1] == {"role": "assistant", "content": words}


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_refusal_of_another_role_is_refused(role: str) -> None:
    error = refused(U, {"role": role, "content": [refusal("no")]})
    assert error.param == "messages[1].content[0]"
    assert "'refusal'" in error.message


def test_refusal_part_without_text_is_refused() -> None:
    error = refused({"role": "assistant", "content": [{"type": "refusal"}]}, U)
    assert error.param == "messages[0].content[0].refusal"


# --- keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_unknown_message_keys_go_to_the_template(role: str) -> None:
    """As mlx_lm's server has it; null is as absent, and transformers drops it too."""
    keys = {
        "name": "ann",
        "thinking": "hm",
        "reasoning": {"effort": "x"},
        "citations": [{"a": 1}, "b"],
        "weight": 0.5,
        "cache_control": {"type": "ephemeral"},
    }
    message = {"role": role, "content": "hi", **keys, "audio": None, "function_call": None}
    assert asked(message).messages == [{"role": role, "content": "hi", **keys}]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [deep(70), 1 << 70, [0] * 200_001, {"a": -(1 << 70)}],
    ids=["deep", "large number", "many values", "large number inside"],
)
def test_unknown_message_keys_are_bounded(value: Any) -> None:
    assert refused(U, A | {"citations": value}, U).param == "messages"


def test_half_a_surrogate_pair_in_an_unknown_key_is_refused() -> None:
    body = rb'{"messages": [{"role": "user", "content": "hi", "weight": "\ud83d"}]}'
    with pytest.raises(InvalidRequest, match="not JSON"):
        parse(body)


# --- attachments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speakers", "place"),
    [
        (["user"], 0),
        (["system", "user"], 1),
        (["user", "system"], 0),
        (["user", "assistant", "user"], 2),
        (["user", "user"], 1),
        (["user", "assistant", "tool"], None),
        (["user", "assistant", "tool", "user"], None),
        (["user", "assistant", "user", "tool"], None),
        (["user", "assistant", "tool", "assistant", "user"], 4),
        (["user", "assistant"], None),
        (["system"], None),
        ([], None),
    ],
)
def test_last_user_message_is_the_last_since_the_assistants(
    speakers: list[Any], place: int | None
) -> None:
    assert last_user_message(speakers) == place


PARTS = {
    "image_url": PICTURE,
    "input_audio": {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    "video_url": {"type": "video_url", "video_url": {"url": "http://x/y.mp4"}},
    "file": file(None, file_id="file-1"),
}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("image_url", "image"),
        ("input_audio", "audio"),
        ("video_url", "video"),
        ("file", "document"),
    ],
)
def test_attachment_is_a_notice_except_in_the_last_user_message(kind: str, what: str) -> None:
    part = PARTS[kind]
    words = f"[{what} omitted: this model reads text only]"
    result = RESULT | {"content": [part]}
    assert contents(user(text("see"), part), A, U) == [f"see\n{words}", "yes", "hi"]
    assert contents(U, CALLED, result) == ["hi", "", words]
    assert contents(U, CALLED, result, A, U)[2] == words
    assert contents(U, CALLED, RESULT, user(part)) == ["hi", "", "wide", words]
    assert contents(user(part), U) == [words, "hi"]
    assert contents(user(part), CALLED, RESULT)[0] == words
    assert contents(U, {"role": "assistant", "content": [part]}, U)[1] == words
    for messages in ([user(text("see"), part)], [U, A, user(text("see"), part)]):
        error = refused(*messages)
        assert isinstance(error, UnsupportedField)
        assert error.param == f"messages[{len(messages) - 1}].content[1]"
        assert f"'{kind}'" in error.message


def test_attachment_notice_has_a_line_of_its_own() -> None:
    parts = [text("a"), text("b\n"), PICTURE, PICTURE, text("c"), text(""), text("d")]
    assert contents(user(*parts), A, U)[0] == f"ab\n{IMAGE}\n{IMAGE}\ncd"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (f"data:text/plain;base64,{coded(b'hello')}", "hello"),
        (f"data:text/markdown;charset=utf-8;base64,{coded('é🙂'.encode())}", "é🙂"),
        ("data:text/plain,hello%20there", "hello there"),
        ("data:,hello", "hello"),
        (f"data:application/json;base64,{coded(b'{}')}", "{}"),
        (f"data:application/ld+json;base64,{coded(b'{}')}", "{}"),
        (coded(b"hello there"), "hello there"),
        (coded(b"\xef\xbb\xbfmarked"), "marked"),
    ],
)
def test_text_file_is_read_as_text(data: str, words: str) -> None:
    assert contents(user(text("see"), file(data))) == [f"see\n{words}"]
    assert contents(user(file(data, filename="a.md"))) == [f"a.md\n\n{words}"]


@pytest.mark.parametrize(
    "data",
    [
        f"data:application/pdf;base64,{coded(b'%PDF-1.7')}",
        f"data:text/plain;base64,{coded(bytes([0xFF, 0xFE, 0]))}",
        f"data:text/plain;base64,{coded(b'a')}b",
        "data:text/plain;base64",
        coded(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
        coded(b"a\0b"),
        "no base64 at all!",
        None,
    ],
)
def test_file_that_is_no_text_is_a_notice_or_refused(data: str | None) -> None:
    assert contents(user(file(data)), A, U)[0] == DOCUMENT
    assert refused(user(file(data))).param == "messages[0].content[0]"


def test_parts_of_unknown_types_are_refused_in_every_message() -> None:
    for messages in ([user({"type": "thinking"}), A, U], [U, user({"type": "input_text"})]):
        assert isinstance(refused(*messages), UnsupportedField)


# --- how the answer begins ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "opening"),
    [
        ({}, "turn"),
        ({"add_generation_prompt": True}, "turn"),
        ({"add_generation_prompt": None, "continue_final_message": None}, "turn"),
        ({"continue_final_message": False}, "turn"),
        ({"add_generation_prompt": False}, "none"),
        ({"add_generation_prompt": False, "continue_final_message": False}, "none"),
        ({"continue_final_message": True}, "continued"),
        ({"add_generation_prompt": False, "continue_final_message": True}, "continued"),
    ],
    ids=str,
)
def test_opening_follows_the_request(fields: dict[str, Any], opening: str) -> None:
    assert asked(U, A, **fields).opening == opening


@pytest.mark.parametrize("key", ["prefix", "partial"])
def test_message_that_begins_the_answer_is_continued(key: str) -> None:
    """Mistral's and DeepSeek's `prefix`, Moonshot's `partial`."""
    chat = asked(U, A | {key: True})
    assert (chat.opening, chat.messages) == ("continued", [U, A])
    assert asked(U, A | {key: False}).opening == "turn"
    assert asked(U, A | {key: True}, U).opening == "turn"
    assert refused(U, A | {key: True}, add_generation_prompt=True).param == "add_generation_prompt"


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([U, A], {"add_generation_prompt": True}, "add_generation_prompt"),
        ([U], {}, "continue_final_message"),
        ([U, CALLED, RESULT], {}, "continue_final_message"),
        ([U, CALLED], {}, "continue_final_message"),
    ],
)
def test_message_that_cannot_be_continued_is_refused(
    messages: list[dict[str, Any]], fields: dict[str, Any], param: str
) -> None:
    """As vLLM: either a turn begins, or the last message is continued."""
    error = refused(*messages, continue_final_message=True, **fields)
    assert error.param == param
    assert param in error.message


def test_image_before_a_prefill_is_in_the_last_user_message() -> None:
    assert refused(user(PICTURE), A, continue_final_message=True).param == "messages[0].content[0]"
    assert contents(user(PICTURE), A)[0] == IMAGE


# --- calls --------------------------------------------------------------------------------


def test_earlier_custom_tool_call_becomes_a_function_call() -> None:
    custom = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": 'a "b"'}}
    said = asked(U, {"role": "assistant", "tool_calls": [custom, CALL]}, RESULT).messages
    function = {"name": "patch", "arguments": r'{"input":"a \"b\""}'}
    assert said[1]["tool_calls"] == [{"id": "c1", "type": "function", "function": function}, CALL]
