"""Turn the blocks of `POST /v1/messages` into text: in messages, results and documents.

Text, documents, search results and references to tools are readable; a notice stands for an image.
Source: Anthropic's API reference, messages.

[front]
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mlx_worker.api.dialects.attachments import (
    ATTACHMENT_KINDS,
    PARAGRAPH,
    attachment_notice,
    decode_text_data,
    document_text,
)
from mlx_worker.api.dialects.decoding import convert_field
from mlx_worker.api.dialects.fields import ShortText, require_field
from mlx_worker.errors import UnsupportedField

READABLE_TYPES: Final = frozenset(
    {"text", "compaction", "document", "search_result", "tool_reference", *ATTACHMENT_KINDS}
)
"""Types of blocks that a model reads as text."""


class TextBlock(msgspec.Struct, frozen=True):
    """A block of text; blocks of other types are refused by their type."""

    type: ShortText
    text: str | None = None


class ReadableBlock(TextBlock, frozen=True):
    """A block that a model reads as text; its type says which fields it needs.

    `source` is an object, but a text in a search result; `content` is what is in the block.
    """

    source: Any = None
    title: str | None = None
    context: str | None = None
    content: Any = None
    tool_name: str | None = None


class DocumentSource(msgspec.Struct, frozen=True):
    """Where a document is: in `data`, in `content`, or outside the body."""

    type: ShortText
    media_type: str | None = None
    data: str | None = None
    content: Any = None


def tool_result_text(content: Any, field: str) -> str:
    """Return the text of a tool's result, its blocks in paragraphs. Raises InvalidRequest."""
    if content is None or isinstance(content, str):
        return content or ""
    blocks = convert_field(content, list[ReadableBlock], field)
    return PARAGRAPH.join(
        text for k, block in enumerate(blocks) if (text := block_text(block, f"{field}[{k}]"))
    )


def block_text(block: ReadableBlock, field: str, *, is_last_user: bool = False) -> str:
    """Return a block as text. Raises UnsupportedField for a block that is no text.

    `is_last_user`: the block is in the user's last message.
    """
    match block.type:
        case "text":
            return require_field(block.text, f"{field}.text")
        case "search_result":
            source = block.source if isinstance(block.source, str) else None
            text = _text_and_images(block.content, f"{field}.content")
            return document_text(text, block.title, source)
        case "compaction":
            summary = _text_and_images(block.content, f"{field}.content")
            return f"{summary}{PARAGRAPH}" if block.content else ""
        case "tool_reference":
            return f"[tool: {require_field(block.tool_name, f'{field}.tool_name')}]"
        case "document" if (
            document := _decode_document(block.source, f"{field}.source")
        ) is not None:
            return document_text(document, block.title, block.context)
        case kind if kind in ATTACHMENT_KINDS:
            return attachment_notice(kind, field, is_last_user=is_last_user)
        case other:
            raise UnsupportedField(
                f"{field}: blocks of type {other!r} are not supported, only 'text'", param=field
            )


def _decode_document(written: Any, field: str) -> str | None:
    """Return the text of a document; None if it is no text, or is not in the body."""
    if written is None:
        return None
    source = convert_field(written, DocumentSource, field)
    match source.type:
        case "text":
            return require_field(source.data, f"{field}.data")
        case "content":
            return _text_and_images(source.content, f"{field}.content")
        case "base64" if source.data is not None:
            return decode_text_data(f"data:{source.media_type or ''};base64,{source.data}")
        case _:
            return None


def _text_and_images(content: Any, field: str) -> str:
    """Return the text of a document or a search result, which may contain images."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for k, block in enumerate(convert_field(content, list[TextBlock], field)):
        block_field = f"{field}[{k}]"
        if block.type == "image":
            texts.append(attachment_notice("image", block_field, is_last_user=False))
        elif block.type == "text":
            texts.append(require_field(block.text, f"{block_field}.text"))
        else:
            raise UnsupportedField(
                f"{block_field}: blocks of type {block.type!r} are not supported here",
                param=block_field,
            )
    return PARAGRAPH.join(filter(None, texts))
