"""The messages of a chat completion, as they are asked, and as the turns that templates know.

Every key of a message goes to the template, as mlx_lm's server has it: models have keys of their
own. The keys that this node knows are typed; the others are read only here, within limits.
Source: OpenAI's API reference, chat completions. [front]
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from mlx_worker.api.dialects.attachments import (
    KINDS,
    PARAGRAPH,
    Speaker,
    document,
    in_lines,
    omitted,
    own_message,
    text_of_data,
)
from mlx_worker.api.dialects.base import decode
from mlx_worker.api.dialects.fields import Word, refuse_unsayable, required
from mlx_worker.api.dialects.large_numbers import calls_in_digits
from mlx_worker.api.dialects.responses.tools import CUSTOM_INPUT
from mlx_worker.errors import UnsupportedField
from mlx_worker.limits import CALL_VALUES, check_depth, check_values

Turn = dict[str, Any]


class File(msgspec.Struct, frozen=True):
    """A file; one of text is text."""

    file_data: str | None = None
    filename: str | None = None


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content; which fields it needs is told by its type."""

    type: Word
    text: str | None = None
    refusal: str | None = None
    file: File | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn; its other keys go to the template too."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    prefix: bool | None = None
    partial: bool | None = None

    @property
    def is_begun(self) -> bool:
        """True if the message begins the answer, as Mistral and DeepSeek, or Moonshot, say it."""
        return self.role == "assistant" and bool(self.prefix or self.partial)

    @property
    def speaker(self) -> Speaker:
        """The role as templates know it."""
        return "system" if self.role == "developer" else self.role


class _Keys(msgspec.Struct):
    """The same messages, of which nothing but the keys is read."""

    messages: list[dict[str, msgspec.Raw]]


KEPT: Final = ("name", "tool_calls", "tool_call_id", "reasoning_content")
"""Keys that go to the template as they are."""


def turns_of(messages: list[ChatMessage], body: bytes, *, continued: bool) -> list[Turn]:
    """Return the turns of a body's messages. Raises InvalidRequest, which names the place.

    `continued`: the last message is the beginning of the answer, not a turn before it.
    """
    more = _other_keys(body)
    refuse_unsayable("messages", more, CALL_VALUES)
    own = own_message([it.speaker for it in (messages[:-1] if continued else messages)])
    turns = [
        _turn(message, f"messages[{i}]", own=i == own) | others
        for i, (message, others) in enumerate(zip(messages, more, strict=True))
    ]
    calls = [turn.get("tool_calls") for turn in turns]  # each call is encoded above, once
    check_values(calls, CALL_VALUES, "messages")
    check_depth(calls, "messages")
    return turns


def _other_keys(body: bytes) -> list[Turn]:
    """Return what each message has under keys that this node does not know; null is as absent."""
    known = frozenset(ChatMessage.__struct_fields__)
    return [
        {
            key: value
            for key, raw in message.items()
            if key not in known and (value := decode(bytes(raw), object)) is not None
        }
        for message in decode(body, _Keys).messages
    ]


def _turn(message: ChatMessage, at: str, *, own: bool) -> Turn:
    turn: Turn = {"role": message.speaker, "content": _text(message, at, own=own)}
    for key in KEPT:
        if (value := getattr(message, key)) is not None:
            turn[key] = _calls(value) if key == "tool_calls" else value
    return turn


def _calls(calls: list[Turn]) -> list[Turn]:
    """Return calls of earlier turns as calls of functions, which templates know."""
    return calls_in_digits([_as_function_call(call) for call in calls], "messages")


def _as_function_call(call: Turn) -> Turn:
    """Return a call; that of another server's custom tool as one of a function with one text."""
    custom = call.get("custom")
    if not isinstance(custom, dict) or not isinstance(custom.get("input"), str):
        return call
    arguments = msgspec.json.encode({CUSTOM_INPUT: custom["input"]}).decode()
    rest = {key: value for key, value in call.items() if key != "custom"}
    function = {"name": custom.get("name"), "arguments": arguments}
    return rest | {"type": "function", "function": function}


def _text(message: ChatMessage, at: str, *, own: bool) -> str:
    content = message.content or ""
    if not isinstance(content, str):
        content = in_lines(
            _text_of_part(part, f"{at}.content[{k}]", message.role, own=own)
            for k, part in enumerate(content)
        )
    if message.refusal and message.role == "assistant" and message.refusal != content:
        return PARAGRAPH.join(filter(None, (content, message.refusal)))
    return content


def _text_of_part(part: Part, field: str, role: str, *, own: bool) -> tuple[str, bool]:
    """Return a part's text, and whether it stands apart from the text beside it."""
    if part.type == "text":
        return required(part.text, f"{field}.text"), False
    if part.type == "refusal" and role == "assistant":
        return required(part.refusal, f"{field}.refusal"), False
    if part.type not in KINDS:
        raise UnsupportedField(
            f"{field}: parts of type {part.type!r} are not understood, only 'text'", param=field
        )
    if part.type == "file" and part.file is not None and part.file.file_data is not None:
        text = text_of_data(part.file.file_data)
        if text is not None:
            return document(text, part.file.filename), True
    return omitted(part.type, field, own=own), True
