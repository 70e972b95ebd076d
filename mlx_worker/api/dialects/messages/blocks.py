"""Blocks of `POST /v1/messages` that are text to a model: in turns, results and documents.

Text, documents, search results and references to tools are told in words; for a picture a sentence
stands. Source: Anthropic's API reference, messages. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.api.dialects.attachments import (
    KINDS,
    PARAGRAPH,
    Speaker,
    document,
    omitted,
    own_message,
    text_of_data,
)
from mlx_worker.api.dialects.base import fitted
from mlx_worker.api.dialects.fields import Word, required
from mlx_worker.errors import UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.api.dialects.messages.request import Message

TOLD: Final = frozenset(
    {"text", "compaction", "document", "search_result", "tool_reference", *KINDS}
)
"""Types of blocks that are told in words."""


class TextBlock(msgspec.Struct, frozen=True):
    """Words; what else a block may be is refused by its type."""

    type: Word
    text: str | None = None


class ToldBlock(TextBlock, frozen=True):
    """A block that is told in words; which fields it needs is told by its type.

    `source` is an object, but of a search result a text; `content` is what is in the block.
    """

    source: Any = None
    title: str | None = None
    context: str | None = None
    content: Any = None
    tool_name: str | None = None


class Source(msgspec.Struct, frozen=True):
    """Where a document is: in `data`, in `content`, or where this node does not look."""

    type: Word
    media_type: str | None = None
    data: str | None = None
    content: Any = None


def own_turn(messages: Sequence[Message]) -> int | None:
    """Return the place of the user's own last message; None where there is none.

    An assistant's last message begins the answer, and is no turn before it.
    """
    begun = bool(messages) and messages[-1].role == "assistant"
    return own_message([*map(_speaker, messages[:-1] if begun else messages)])


def _speaker(message: Message) -> Speaker:
    content = message.content
    if isinstance(content, str) or all(block.type != "tool_result" for block in content):
        return message.role
    return "tool"


def text_in(content: Any, field: str) -> str:
    """Return what a tool returned, its blocks in paragraphs. Raises InvalidRequest."""
    if content is None or isinstance(content, str):
        return content or ""
    blocks = fitted(content, list[ToldBlock], field)
    return PARAGRAPH.join(
        text for k, block in enumerate(blocks) if (text := text_of(block, f"{field}[{k}]"))
    )


def text_of(block: ToldBlock, field: str, *, own: bool = False) -> str:
    """Return a block as text. Raises UnsupportedField for one that is none.

    `own`: the block is in the user's own last message.
    """
    match block.type:
        case "text":
            return required(block.text, f"{field}.text")
        case "search_result":
            where = block.source if isinstance(block.source, str) else None
            return document(_plain(block.content, f"{field}.content"), block.title, where)
        case "compaction":  # without a summary it stands for nothing
            return (
                f"{_plain(block.content, f'{field}.content')}{PARAGRAPH}" if block.content else ""
            )
        case "tool_reference":
            return f"[tool: {required(block.tool_name, f'{field}.tool_name')}]"
        case "document" if (text := _text_of_document(block.source, f"{field}.source")) is not None:
            return document(text, block.title, block.context)
        case kind if kind in KINDS:
            return omitted(kind, field, own=own)
        case other:
            raise UnsupportedField(
                f"{field}: blocks of type {other!r} are not understood, only text", param=field
            )


def _text_of_document(given: Any, field: str) -> str | None:
    """Return the text of a document; None where the document is none, or is not in the body."""
    if given is None:
        return None
    source = fitted(given, Source, field)
    match source.type:
        case "text":
            return required(source.data, f"{field}.data")
        case "content":
            return _plain(source.content, f"{field}.content")
        case "base64" if source.data is not None:
            return text_of_data(f"data:{source.media_type or ''};base64,{source.data}")
        case _:
            return None


def _plain(content: Any, field: str) -> str:
    """Return what is in a document or a search result: text, and pictures at most."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for k, block in enumerate(fitted(content, list[TextBlock], field)):
        place = f"{field}[{k}]"
        if block.type == "image":
            texts.append(omitted("image", place, own=False))
        elif block.type == "text":
            texts.append(required(block.text, f"{place}.text"))
        else:
            raise UnsupportedField(
                f"{place}: blocks of type {block.type!r} are not understood here", param=place
            )
    return PARAGRAPH.join(filter(None, texts))
