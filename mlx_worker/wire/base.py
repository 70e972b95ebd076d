"""The bases of everything that travels on the pipe between the front and a child.

[both]
"""

from __future__ import annotations

import msgspec


class WireMessage(msgspec.Struct, frozen=True, tag=True, tag_field="is"):
    """Give a message its tag; never sent itself."""


class WirePart(msgspec.Struct, frozen=True, array_like=True):
    """Encode a part of messages without field names: parts travel many times a second."""
