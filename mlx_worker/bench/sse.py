"""Server-sent events from bytes that arrive in any pieces.

[bench]
"""

from __future__ import annotations

from typing import Final

_DATA: Final = b"data:"


class EventReader:
    """Bytes in, the `data` of complete events out; comments and other fields are dropped."""

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of every event that these bytes complete."""
        *lines, self._line = (self._line + data).split(b"\n")
        events = []
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if line.startswith(_DATA):
                self._data.append(line[len(_DATA) :].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events
