"""Turn the messages of a chat completion into the messages that chat templates know.

Every key of a message goes to the template, as in mlx_lm's server: some models have keys of their
own. The keys that this node knows are typed; the others are read only here, within limits.
Source: OpenAI's API reference, chat completions.

[front]
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from mlx_worker.api.dialects.attachments import (
    ATTACHMENT_KINDS,
    PARAGRAPH,
    SpeakerRole,
    attachment_notice,
    decode_text_data,
    document_text,
    join_parts,
    last_user_message,
)
from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import ShortText, check_free_form, require_field
from mlx_worker.api.dialects.large_numbers import with_encodable_arguments
from mlx_worker.api.dialects.responses.tools import CUSTOM_INPUT
from mlx_worker.errors import UnsupportedField
from mlx_worker.limits import CALL_VALUES, check_depth, check_values

TemplateMessage = dict[str, Any]


class ChatFile(msgspec.Struct, frozen=True):
    """A file; one of text is read as text."""

    file_data: str | None = None
    filename: str | None = None


class ChatPart(msgspec.Struct, frozen=True):
    """One part of a message's content; its type says which fields it needs."""

    type: ShortText
    text: str | None = None
    refusal: str | None = None
    file: ChatFile | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message; its other keys go to the template too."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ChatPart] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    prefix: bool | None = None
    partial: bool | None = None

    @property
    def begins_answer(self) -> bool:
        """True if the answer continues the message: `prefix` (Mistral, DeepSeek) or `partial`."""
        return self.role == "assistant" and bool(self.prefix or self.partial)

    @property
    def template_role(self) -> SpeakerRole:
        """The role as templates know it."""
        return "system" if self.role == "developer" else self.role


class _UntypedMessages(msgspec.Struct):
    """The same messages with their keys alone decoded."""

    messages: list[dict[str, msgspec.Raw]]


KEPT_KEYS: Final = ("name", "tool_calls", "tool_call_id", "reasoning_content")
"""Keys that go to the template as they are."""


def build_messages(
    messages: list[ChatMessage], data: bytes, *, continued: bool
) -> list[TemplateMessage]:
    """Return the template's messages of a body. Raises InvalidRequest, which names the place.

    `continued`: the last message is the beginning of the answer, not a message before it.
    """
    other_keys = _decode_other_keys(data)
    check_free_form("messages", other_keys, CALL_VALUES)
    earlier = messages[:-1] if continued else messages
    last_user = last_user_message([message.template_role for message in earlier])
    built = [
        _build_message(message, f"messages[{i}]", is_last_user=i == last_user) | others
        for i, (message, others) in enumerate(zip(messages, other_keys, strict=True))
    ]
    calls = [message.get("tool_calls") for message in built]  # each call is encoded above, once
    check_values(calls, CALL_VALUES, "messages")
    check_depth(calls, "messages")
    return built


def _decode_other_keys(data: bytes) -> list[TemplateMessage]:
    """Return each message's values under keys that this node does not know; null is as absent."""
    known = frozenset(ChatMessage.__struct_fields__)
    return [
        {
            key: value
            for key, raw in message.items()
            if key not in known and (value := decode_body(bytes(raw), object)) is not None
        }
        for message in decode_body(data, _UntypedMessages).messages
    ]


def _build_message(message: ChatMessage, field: str, *, is_last_user: bool) -> TemplateMessage:
    text = _message_text(message, field, is_last_user=is_last_user)
    built: TemplateMessage = {"role": message.template_role, "content": text}
    for key in KEPT_KEYS:
        if (value := getattr(message, key)) is not None:
            built[key] = _template_calls(value) if key == "tool_calls" else value
    return built


def _template_calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return earlier calls as calls of functions, which templates know."""
    return with_encodable_arguments([_as_function_call(call) for call in calls], "messages")


def _as_function_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call; that of another server's custom tool as one of a function with one text."""
    custom = call.get("custom")
    if not isinstance(custom, dict) or not isinstance(custom.get("input"), str):
        return call
    arguments = msgspec.json.encode({CUSTOM_INPUT: custom["input"]}).decode()
    rest = {key: value for key, value in call.items() if key != "custom"}
    function = {"name": custom.get("name"), "arguments": arguments}
    return rest | {"type": "function", "function": function}


def _message_text(message: ChatMessage, field: str, *, is_last_user: bool) -> str:
    content = message.content or ""
    if not isinstance(content, str):
        content = join_parts(
            _part_text(part, f"{field}.content[{k}]", message.role, is_last_user=is_last_user)
            for k, part in enumerate(content)
        )
    if message.refusal and message.role == "assistant" and message.refusal != content:
        return PARAGRAPH.join(filter(None, (content, message.refusal)))
    return content


def _part_text(part: ChatPart, field: str, role: str, *, is_last_user: bool) -> tuple[str, bool]:
    """Return a part's text, and whether it stands apart from the text beside it."""
    if part.type == "text":
        return require_field(part.text, f"{field}.text"), False
    if part.type == "refusal" and role == "assistant":
        return require_field(part.refusal, f"{field}.refusal"), False
    if part.type not in ATTACHMENT_KINDS:
        raise UnsupportedField(
            f"{field}: parts of type {part.type!r} are not supported, only 'text'", param=field
        )
    if part.type == "file" and part.file is not None and part.file.file_data is not None:
        text = decode_text_data(part.file.file_data)
        if text is not None:
            return document_text(text, part.file.filename), True
    return attachment_notice(part.type, field, is_last_user=is_last_user), True
