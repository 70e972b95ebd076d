"""Images, audio and documents in a conversation: read as text, replaced by a notice, or refused.

The models read text only. A document of text is read as text. A notice replaces any other
attachment, so that a session can continue after a tool has read an image. In the user's last
message the question is about the attachment, which is refused by name. No URL is fetched.

[front]
"""

from __future__ import annotations

import base64
import binascii
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote_to_bytes

from mlx_worker.errors import UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SpeakerRole = Literal["system", "user", "assistant", "tool"]

PARAGRAPH: Final = "\n\n"

ATTACHMENT_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # chat completions
        "image_url": "image",
        "input_audio": "audio",
        "audio_url": "audio",
        "video_url": "video",
        "file": "document",
        # responses
        "input_image": "image",
        "computer_screenshot": "image",
        "input_file": "document",
        # messages
        "image": "image",
        "document": "document",
        "container_upload": "file",
    }
)
"""The kind of attachment of each type of part or block, in all dialects."""

TEXT_TYPES: Final = frozenset(
    {
        "application/json",
        "application/toml",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
    }
)
"""Media types of text beyond `text/*`, and `*+json` and `*+xml`."""


def attachment_notice(kind: str, field: str, *, is_last_user: bool) -> str:
    """Return the notice that replaces a part of this type.

    Raises UnsupportedField in the user's last message.
    """
    if is_last_user:
        raise UnsupportedField(
            f"{field}: this model reads text only; it cannot read a part of type {kind!r}",
            param=field,
        )
    return f"[{ATTACHMENT_KINDS[kind]} omitted: this model reads text only]"


def last_user_message(speakers: Sequence[SpeakerRole]) -> int | None:
    """Return the index of the user's last message; None if there is none.

    That is the last message of the user since the assistant's last message. If a tool's result has
    come since, there is none: the assistant is at work, and its tools wrote the text beside the
    result. An earlier message of the user is no longer the question, so that a user whose image was
    refused can continue without it.
    """
    last = None
    for index in reversed(range(len(speakers))):
        match speakers[index]:
            case "tool":
                return None
            case "assistant":
                return last
            case "user" if last is None:
                last = index
    return last


def document_text(text: str, *headings: str | None) -> str:
    """Return a document as text, in paragraphs: its headings, then its own text."""
    return PARAGRAPH.join(part for part in (*headings, text) if part)


def decode_text_data(data: str) -> str | None:
    """Return the text of a `data:` URL, or of base64 alone; None if the data is no text.

    The data is at most as long as the body, and large bodies are parsed off the event loop.
    """
    if not data.startswith("data:"):
        return _decode_base64(data)
    head, comma, content = data[len("data:") :].partition(",")
    media_type, *parameters = (part.strip().lower() for part in head.split(";"))
    if not comma or not is_text_type(media_type or "text/plain"):
        return None
    if "base64" in parameters:
        return _decode_base64(content)
    return _decode_utf8(unquote_to_bytes(content))


def is_text_type(media_type: str) -> bool:
    """Return True if documents of this media type are text."""
    kind = media_type.lower()
    return kind.startswith("text/") or kind in TEXT_TYPES or kind.endswith(("+json", "+xml"))


def join_parts(parts: Iterable[tuple[str, bool]]) -> str:
    """Return the texts of parts as one text; a part that stands apart has lines of its own."""
    non_empty = [part for part in parts if part[0]]
    gaps = [
        "\n" if (apart or next_apart) and not text.endswith("\n") else ""
        for (text, apart), (_, next_apart) in pairwise(non_empty)
    ]
    texts = [text for text, _ in non_empty]
    return "".join(text + gap for text, gap in zip(texts, [*gaps, ""], strict=False))


def _decode_base64(data: str) -> str | None:
    try:
        return _decode_utf8(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return None


def _decode_utf8(data: bytes) -> str | None:
    """Return bytes as text; None if they are no text: a NUL is in no text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
