"""Text files that people write: UTF-8, with or without a byte order mark.

Windows editors put a byte order mark in front of UTF-8, or write UTF-16. The mark is no part of the
text: in a prompt or in a chat template it would be one more token of every request. [both]
"""

from __future__ import annotations

import codecs
from typing import Final

_MARKS: Final = (
    ("UTF-32", codecs.BOM_UTF32_LE),  # before UTF-16, whose mark it begins with
    ("UTF-32", codecs.BOM_UTF32_BE),
    ("UTF-16", codecs.BOM_UTF16_LE),
    ("UTF-16", codecs.BOM_UTF16_BE),
)


def decode_text(data: bytes) -> str:
    """Return the text of a UTF-8 file without its byte order mark.

    Raises ValueError, which says what is wrong with the bytes and what to do.
    """
    for encoding, mark in _MARKS:
        if data.startswith(mark):
            raise ValueError(f"the encoding is {encoding}: save the file as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise ValueError(
            f"the text is not UTF-8: byte {error.start} is 0x{byte:02x} ({error.reason})"
        ) from error
