"""The items of `POST /v1/responses`, and the text of their parts.

Source: OpenAI's API reference, responses.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from mlx_worker.api.dialects.attachments import (
    ATTACHMENT_KINDS,
    SpeakerRole,
    attachment_notice,
    decode_text_data,
    document_text,
    join_parts,
    last_user_message,
)
from mlx_worker.api.dialects.fields import ShortText, require_field
from mlx_worker.errors import InvalidRequest, UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT_PARTS: Final = frozenset(
    {"input_text", "output_text", "text", "reasoning_text", "summary_text"}
)


class InputPart(msgspec.Struct, frozen=True):
    """One part of an item; its type says which fields it needs."""

    type: ShortText
    text: str | None = None
    refusal: str | None = None
    file_data: str | None = None
    filename: str | None = None


ItemContent = str | list[InputPart]
"""The content of an item: text, or parts."""


class InputItem(msgspec.Struct, frozen=True):
    """A message, reasoning, a call or a result; its type says which fields it needs."""

    type: ShortText | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: ItemContent | None = None
    summary: list[InputPart] | None = None
    id: str | None = None
    call_id: str | None = None
    namespace: str | None = None
    name: str | None = None
    arguments: Any = None
    input: str | None = None
    output: Any = None
    error: Any = None
    action: Any = None
    operation: Any = None
    server_label: str | None = None
    tools: Any = None

    @property
    def kind(self) -> str:
        """The type; without one, an item is a message."""
        return self.type or "message"


def last_user_item(items: Sequence[InputItem]) -> int | None:
    """Return the index of the user's last message; None if there is none."""
    return last_user_message([*map(_speaker, items)])


def _speaker(item: InputItem) -> SpeakerRole:
    if item.kind == "message":
        return "system" if item.role == "developer" else item.role or "user"
    if item.kind.endswith("_output"):
        return "tool"
    is_assistant = item.kind == "reasoning" or item.kind.endswith("_call")
    return "assistant" if is_assistant else "system"


def parts_text(content: ItemContent | None, field: str, *, is_last_user: bool = False) -> str:
    """Return an item's parts as one text. Raises InvalidRequest, which names the part.

    `is_last_user`: they are the user's last message.
    """
    if content is None:
        raise InvalidRequest(f"{field}: is required", param=field)
    if isinstance(content, str):
        return content
    return join_parts(
        _part_text(part, f"{field}[{k}]", is_last_user=is_last_user)
        for k, part in enumerate(content)
    )


def _part_text(part: InputPart, field: str, *, is_last_user: bool) -> tuple[str, bool]:
    """Return a part's text, and whether it stands apart from the text beside it."""
    if part.type in TEXT_PARTS:
        return require_field(part.text, f"{field}.text"), False
    if part.type == "refusal":
        return require_field(part.refusal, f"{field}.refusal"), False
    if part.type not in ATTACHMENT_KINDS:
        raise UnsupportedField(
            f"{field}: parts of type {part.type!r} are not supported, only text", param=field
        )
    if part.type == "input_file" and part.file_data is not None:
        text = decode_text_data(part.file_data)
        if text is not None:
            return document_text(text, part.filename), True
    return attachment_notice(part.type, field, is_last_user=is_last_user), True
