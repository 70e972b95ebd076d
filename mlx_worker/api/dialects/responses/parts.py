"""The parts of items of `POST /v1/responses`, as the text that a model is told. [front]

Source: OpenAI's API reference, responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.api.dialects.attachments import (
    KINDS,
    Speaker,
    document,
    in_lines,
    omitted,
    own_message,
    text_of_data,
)
from mlx_worker.api.dialects.fields import Word, required
from mlx_worker.errors import InvalidRequest, UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.api.dialects.responses.request import Item

TEXT_PARTS: Final = frozenset(
    {"input_text", "output_text", "text", "reasoning_text", "summary_text"}
)


class InputPart(msgspec.Struct, frozen=True):
    """One part of an item; which fields it needs is told by its type."""

    type: Word
    text: str | None = None
    refusal: str | None = None
    file_data: str | None = None
    filename: str | None = None


Parts = str | list[InputPart]


def own_item(items: Sequence[Item]) -> int | None:
    """Return the place of the user's own last message; None where there is none."""
    return own_message([*map(_speaker, items)])


def _speaker(item: Item) -> Speaker:
    if item.kind == "message":
        return "system" if item.role == "developer" else item.role or "user"
    if item.kind.endswith("_output"):
        return "tool"
    is_assistants = item.kind == "reasoning" or item.kind.endswith("_call")
    return "assistant" if is_assistants else "system"


def text_of_parts(content: Parts | None, field: str, *, own: bool = False) -> str:
    """Return an item's parts as one text. Raises InvalidRequest, which names the part.

    `own`: they are the user's own last message.
    """
    if content is None:
        raise InvalidRequest(f"{field}: is required", param=field)
    if isinstance(content, str):
        return content
    return in_lines(_text_of(part, f"{field}[{k}]", own=own) for k, part in enumerate(content))


def _text_of(part: InputPart, field: str, *, own: bool) -> tuple[str, bool]:
    """Return a part's text, and whether it stands apart from the text beside it."""
    if part.type in TEXT_PARTS:
        return required(part.text, f"{field}.text"), False
    if part.type == "refusal":
        return required(part.refusal, f"{field}.refusal"), False
    if part.type not in KINDS:
        raise UnsupportedField(
            f"{field}: parts of type {part.type!r} are not understood, only text", param=field
        )
    if part.type == "input_file" and part.file_data is not None:
        text = text_of_data(part.file_data)
        if text is not None:
            return document(text, part.filename), True
    return omitted(part.type, field, own=own), True
