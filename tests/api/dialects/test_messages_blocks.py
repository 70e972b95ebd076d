"""Blocks of messages that a model is told of in words; answers that a message has begun."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mlx_worker.api.dialects.messages.request import parse, parse_count_body
from mlx_worker.errors import InvalidRequest, UnsupportedField

U: dict[str, Any] = {"role": "user", "content": "go"}
USE = {"type": "tool_use", "id": "t1", "name": "Read", "input": {"p": "a"}}
USED = {"role": "assistant", "content": [{"type": "text", "text": "I look"}, USE]}
DONE = {"role": "assistant", "content": "Done."}

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
BY_URL = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
PDF = {
    "type": "document",
    "title": "a",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
}
UPLOAD = {"type": "container_upload", "file_id": "file_1"}
IMAGE_TEXT = "[image omitted: this model reads text only]"
PDF_TEXT = "[document omitted: this model reads text only]"
UPLOAD_TEXT = "[file omitted: this model reads text only]"


def asked(*messages: dict[str, Any], **fields: Any) -> Any:
    body = json.dumps({"messages": messages, "max_tokens": 9} | fields).encode()
    chat = parse(body).chats[0]
    _, counted = parse_count_body(body)
    assert (counted.messages, counted.opening) == (chat.messages, chat.opening)
    return chat


def contents(*messages: dict[str, Any], **fields: Any) -> list[str]:
    return [turn["content"] for turn in asked(*messages, **fields).messages]


def refused(*messages: dict[str, Any], **fields: Any) -> InvalidRequest:
    body = json.dumps({"messages": messages, "max_tokens": 9} | fields).encode()
    with pytest.raises(InvalidRequest) as counted:
        parse_count_body(body)
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.message == counted.value.message
    return caught.value


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": blocks}


def result(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": blocks}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def document_text(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": source} | more


def plain(words: str) -> dict[str, Any]:
    return {"type": "text", "media_type": "text/plain", "data": words}


# --- attachments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(IMAGE, IMAGE_TEXT, id="image"),
        pytest.param(BY_URL, IMAGE_TEXT, id="image by url"),
        pytest.param({"type": "image"}, IMAGE_TEXT, id="image without source"),
        pytest.param(PDF, PDF_TEXT, id="pdf"),
        pytest.param(
            document_text({"type": "file", "file_id": "f"}), PDF_TEXT, id="document by file"
        ),
        pytest.param(
            document_text({"type": "url", "url": "http://x"}), PDF_TEXT, id="document by url"
        ),
        pytest.param(UPLOAD, UPLOAD_TEXT, id="upload"),
    ],
)
def test_attachment_is_a_notice_except_in_the_last_user_message(
    block: dict[str, Any], words: str
) -> None:
    assert contents(U, USED, user(result(text("see"), block)))[-1] == f"see\n\n{words}"
    assert contents(U, USED, user(result(block)), DONE, U)[2] == words
    assert contents(U, USED, user(result(text("see")), text("and"), block))[2:] == [
        "see",
        f"and\n\n{words}",
    ]
    assert contents(U, USED, user(result(text("see"))), user(block))[-1] == words
    assert contents(user(text("look"), block), DONE, U)[0] == f"look\n\n{words}"
    assert contents(user(block), U)[0].startswith(words)
    assert contents(U, {"role": "assistant", "content": [block]}, U)[1] == words
    for messages in ([user(text("look"), block)], [U, DONE, user(text("look"), block)]):
        error = refused(*messages)
        assert isinstance(error, UnsupportedField)
        assert error.param == f"messages[{len(messages) - 1}].content[1]"
        assert f"'{block['type']}'" in error.message


def test_image_before_a_system_message_or_prefill_is_refused() -> None:
    for last in ({"role": "system", "content": "x"}, {"role": "assistant", "content": "It is"}):
        assert refused(user(IMAGE), last).param == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(document_text(plain("hello")), "hello", id="text"),
        pytest.param(
            document_text(plain("hello"), title="a.md", context="of May"),
            "a.md\n\nof May\n\nhello",
            id="title and context",
        ),
        pytest.param(
            document_text(plain("hello"), title=None, context=None, citations={"enabled": True}),
            "hello",
            id="nothing about it",
        ),
        pytest.param(document_text({"type": "content", "content": "hello"}), "hello", id="content"),
        pytest.param(
            document_text({"type": "content", "content": [text("a"), IMAGE, text("b")]}),
            f"a\n\n{IMAGE_TEXT}\n\nb",
            id="content in blocks",
        ),
        pytest.param(
            document_text(
                {
                    "type": "base64",
                    "media_type": "text/plain",
                    "data": base64.b64encode("é".encode()).decode(),
                }
            ),
            "é",
            id="text in base64",
        ),
        pytest.param(
            {
                "type": "search_result",
                "source": "http://x",
                "title": "t",
                "content": [text("a"), text("b")],
                "citations": {"enabled": False},
            },
            "t\n\nhttp://x\n\na\n\nb",
            id="search result",
        ),
        pytest.param({"type": "tool_reference", "tool_name": "Edit"}, "[tool: Edit]", id="tool"),
    ],
)
def test_text_blocks_are_read_in_every_place(block: dict[str, Any], words: str) -> None:
    assert contents(user(block, text("?"))) == [f"{words}\n\n?"]
    assert contents(U, USED, user(result(block)))[-1] == words
    assert contents(user(block), DONE, U)[0] == words


@pytest.mark.parametrize(
    ("block", "param"),
    [
        (document_text(plain("x") | {"data": None}), "source.data"),
        (document_text({"media_type": "text/plain"}), "source.type"),
        (document_text({"type": "content", "content": [{"type": "video"}]}), "source.content[0]"),
        (document_text({"type": "content", "content": [PDF]}), "source.content[0]"),
        ({"type": "search_result", "content": [text("a") | {"text": None}]}, "content[0].text"),
        ({"type": "tool_reference"}, "tool_name"),
        ({"type": "hologram"}, ""),
        ({"type": "text", "text": 5}, "text"),
    ],
)
def test_unsupported_block_is_named_by_its_path(block: Any, param: str) -> None:
    suffix = f".{param}" if param else ""
    assert refused(user(block)).param == f"messages[0].content[0]{suffix}"
    error = refused(U, USED, user(result(block)))
    assert error.param == f"messages[2].content[0].content[0]{suffix}"


# --- begun answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "{"),
        ("", ""),
        ([text("The "), text("old")], "The old"),
        ([{"type": "thinking", "thinking": "hm", "signature": ""}, text("So")], "So"),
    ],
)
def test_last_assistant_message_is_continued(content: Any, words: str) -> None:
    """Anthropic's reference: the response continues from the content of a final assistant turn."""
    chat = asked(U, {"role": "assistant", "content": content})
    assert chat.opening == "continued"
    assert (chat.messages[-1]["role"], chat.messages[-1]["content"]) == ("assistant", words)


def test_answer_after_other_messages_is_a_new_message() -> None:
    assert asked(U).opening == "turn"
    assert asked(U, DONE, U).opening == "turn"
    assert asked(U, {"role": "assistant", "content": []}).opening == "turn"


def test_conversation_that_ends_with_a_call_is_refused() -> None:
    error = refused(U, USED)
    assert error.param == "messages[1]"
    assert "tool_result" in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"structured_outputs": {"regex": "a+"}},
        {"tools": [{"name": "look"}], "tool_choice": {"type": "any"}},
    ],
)
def test_prefill_with_a_constraint_is_refused(fields: dict[str, Any]) -> None:
    """Anthropic's reference: prefilling is incompatible with structured outputs."""
    error = refused(U, {"role": "assistant", "content": "{"}, **fields)
    assert error.param == "messages[1]"
