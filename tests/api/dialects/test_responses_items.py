"""Parts of items of `POST /v1/responses`, and what asks for nothing that this node cannot give."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from mlx_worker.api.dialects.responses.request import ResponsesGenerationRequest, parse
from mlx_worker.errors import InvalidRequest, UnsupportedField

U: dict[str, Any] = {"role": "user", "content": "hi"}
A: dict[str, Any] = {"role": "assistant", "content": "yes"}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "wide"}

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"}
TEXT_FILE = "data:text/plain;base64," + base64.b64encode("é".encode()).decode()
IMAGE_TEXT = "[image omitted: this model reads text only]"
DOCUMENT_TEXT = "[document omitted: this model reads text only]"


def asked(*items: dict[str, Any], **fields: Any) -> ResponsesGenerationRequest:
    return parse(json.dumps({"input": items or "hi"} | fields).encode())


def contents(*items: dict[str, Any]) -> list[str]:
    return [turn["content"] for turn in asked(*items).chats[0].messages]


def refused(*items: dict[str, Any], **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(*items, **fields)
    return caught.value


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": parts}


def text(words: str) -> dict[str, Any]:
    return {"type": "input_text", "text": words}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([{"type": "refusal", "refusal": "I cannot"}], "I cannot"),
        (
            [{"type": "output_text", "text": "So: "}, {"type": "refusal", "refusal": "I cannot"}],
            "So: I cannot",
        ),
    ],
)
def test_refusal_in_the_history_is_assistant_text(parts: list[dict[str, Any]], words: str) -> None:
    """OpenAI's reference: the parts of an output message are `output_text` and `refusal`."""
    for more in ({}, {"type": "message", "id": "msg_1", "status": "completed"}):
        assert contents(U, {"role": "assistant", "content": parts} | more, U)[1] == words


def test_item_without_type_is_a_message() -> None:
    assert contents(U | {"type": None}) == ["hi"]
    assert refused({"type": None, "content": "x"}).param == "input[0].role"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        pytest.param(IMAGE, IMAGE_TEXT, id="image"),
        pytest.param({"type": "input_image", "file_id": "f"}, IMAGE_TEXT, id="image by file"),
        pytest.param(
            {"type": "computer_screenshot", "image_url": "x"}, IMAGE_TEXT, id="screenshot"
        ),
        pytest.param(
            {"type": "input_audio", "input_audio": {}},
            "[audio omitted: this model reads text only]",
            id="audio",
        ),
        pytest.param(
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf,x"},
            DOCUMENT_TEXT,
            id="pdf",
        ),
        pytest.param({"type": "input_file", "file_url": "http://x"}, DOCUMENT_TEXT, id="by url"),
    ],
)
def test_attachment_is_a_notice_except_in_the_last_user_message(
    part: dict[str, Any], words: str
) -> None:
    assert contents(U, CALL, OUTPUT | {"output": [text("see"), part]})[-1] == f"see\n{words}"
    assert contents(U, CALL, OUTPUT | {"output": [part]}, A, U)[2] == words
    assert contents(U, CALL, OUTPUT, user(part))[-1] == words
    assert contents(user(text("see"), part), A, U)[0] == f"see\n{words}"
    assert contents(user(part), CALL, OUTPUT)[0] == words
    assert contents(user(part), {"type": "reasoning", "summary": []}, A, U)[0] == words
    assert contents(user(part), U) == [words, "hi"]
    for items in ([user(text("see"), part)], [U, A, user(text("see"), part)]):
        error = refused(*items)
        assert isinstance(error, UnsupportedField)
        assert error.param == f"input[{len(items) - 1}].content[1]"
        assert f"'{part['type']}'" in error.message


def test_empty_items_leave_the_last_user_message_unchanged() -> None:
    for kind in ("ghost_snapshot", "compaction_trigger", "item_reference"):
        assert refused(user(IMAGE), {"type": kind, "id": "x"}).param == "input[0].content[0]"
    assert contents(user(IMAGE), {"type": "web_search_call", "id": "x"}) == [IMAGE_TEXT]


def test_empty_reasoning_adds_no_message() -> None:
    said = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}
    assert asked(U, said, U).chats[0].messages == [U, U]
    assert asked(U, said, A).chats[0].messages == [U, A]


def test_text_file_is_read_as_text() -> None:
    file = {"type": "input_file", "filename": "a.txt", "file_data": TEXT_FILE}
    assert contents(user(text("see"), file, text("?"))) == ["see\na.txt\n\né\n?"]
    assert contents(U, CALL, OUTPUT | {"output": [file]})[-1] == "a.txt\n\né"


def test_parts_of_unknown_types_are_refused_in_every_item() -> None:
    part = {"type": "hologram"}
    assert refused(U, CALL, OUTPUT | {"output": [part]}).param == "input[2].output[0]"
    assert refused(user(part), A, U).param == "input[0].content[0]"


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"truncation": "auto"},
        {"text": {"verbosity": "low"}},
        {"text": {"verbosity": "high", "format": {"type": "text"}}},
        {"include": []},
        {
            "include": [
                "code_interpreter_call.outputs",
                "computer_call_output.output.image_url",
                "file_search_call.results",
                "message.input_image.image_url",
                "reasoning.encrypted_content",
                "web_search_call.action.sources",
            ]
        },
    ],
    ids=str,
)
def test_fields_that_change_no_answer_are_accepted(fields: dict[str, Any]) -> None:
    call = asked(**fields)
    assert call.chats[0].messages == [U]
    assert call.chats[0].logprobs is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncation": "middle"}, "truncation"),
        ({"text": {"verbosity": "endless"}}, "text.verbosity"),
        ({"include": ["message.output_text.echo"]}, "include"),
        ({"include": [3]}, "include[0]"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
    ],
)
def test_malformed_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_verbosity_is_repeated() -> None:
    repeated = [asked(text={"verbosity": "low"}).repeated, asked().repeated]
    texts = [msgspec.json.decode(fields["text"]) for fields in repeated]
    assert [text["verbosity"] for text in texts] == ["low", "medium"]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 3}, 3),
    ],
)
def test_logprobs_are_requested_by_include_or_by_number(
    fields: dict[str, Any], count: int | None
) -> None:
    assert asked(**fields).chats[0].logprobs == count


def test_previous_response_id_is_refused_with_advice() -> None:
    error = refused(previous_response_id="resp_1")
    assert error.param == "previous_response_id"
    assert "input" in error.message
