"""Pictures, sounds and documents in a conversation: what is text, told in words, or refused.

The models read text only. A document of text is text. For any other attachment a sentence stands,
so that a session goes on whose tool has read a picture; in the user's own last message the
attachment is what the question is about, and is refused by name. No URL is fetched. [front]
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

Speaker = Literal["system", "user", "assistant", "tool"]

PARAGRAPH: Final = "\n\n"

KINDS: Final[Mapping[str, str]] = MappingProxyType(
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
"""What a part or block of each type is, in all dialects."""

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


def omitted(kind: str, field: str, *, own: bool) -> str:
    """Return the sentence that stands for an attachment of this part's type.

    Raises UnsupportedField in the user's own last message.
    """
    if own:
        raise UnsupportedField(
            f"{field}: this model reads text only; it cannot read a part of type {kind!r}",
            param=field,
        )
    return f"[{KINDS[kind]} omitted: this model reads text only]"


def own_message(speakers: Sequence[Speaker]) -> int | None:
    """Return the place of the user's own last message; None where there is none.

    That is the last turn of the user since the assistant's last turn. Where a tool's result has
    come since, there is none: the assistant is at work, and what stands beside the result is its
    tools' doing. An earlier turn of the user is no longer what is asked, so that a user whose
    picture was refused can go on without it.
    """
    last = None
    for place in reversed(range(len(speakers))):
        match speakers[place]:
            case "tool":
                return None
            case "assistant":
                return last
            case "user" if last is None:
                last = place
    return last


def document(text: str, *about: str | None) -> str:
    """Return a document as text, in paragraphs: what is said `about` it, then its own text."""
    return PARAGRAPH.join(part for part in (*about, text) if part)


def text_of_data(data: str) -> str | None:
    """Return the text of a `data:` URL, or of base64 alone; None where it is no text.

    A body's data is at most as long as the body, and large bodies are read beside the event loop.
    """
    if not data.startswith("data:"):
        return _text_of_base64(data)
    head, comma, content = data[len("data:") :].partition(",")
    media_type, *parameters = (part.strip().lower() for part in head.split(";"))
    if not comma or not is_text_type(media_type or "text/plain"):
        return None
    if "base64" in parameters:
        return _text_of_base64(content)
    return _decoded(unquote_to_bytes(content))


def is_text_type(media_type: str) -> bool:
    """Return True if documents of this media type are text."""
    kind = media_type.lower()
    return kind.startswith("text/") or kind in TEXT_TYPES or kind.endswith(("+json", "+xml"))


def in_lines(parts: Iterable[tuple[str, bool]]) -> str:
    """Return the texts of parts as one; one that stands `apart` has lines of its own."""
    listed = [part for part in parts if part[0]]
    between = [
        "\n" if (apart or next_apart) and not text.endswith("\n") else ""
        for (text, apart), (_, next_apart) in pairwise(listed)
    ]
    texts = [text for text, _ in listed]
    return "".join(text + gap for text, gap in zip(texts, [*between, ""], strict=False))


def _text_of_base64(data: str) -> str | None:
    try:
        return _decoded(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return None


def _decoded(data: bytes) -> str | None:
    """Return bytes as text; None where they are none: a NUL is in no text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
