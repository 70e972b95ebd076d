"""An HTTP/1 response from bytes that arrive in any pieces.

[bench]
"""

from __future__ import annotations

from typing import Final

_HEAD_END: Final = b"\r\n\r\n"


class ResponseReader:
    """Bytes in, bytes of the body out, chunked or not. `status` is 0 until the head is complete.

    The end of an answer is the end of its connection, so lengths are not looked at.
    """

    def __init__(self) -> None:
        self.status = 0
        self._buffer = b""
        self._chunked = False
        self._left = 0  # bytes of the current chunk, its line end included

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the body among these bytes."""
        self._buffer += data
        if not self.status and not self._read_head():
            return b""
        if self._chunked:
            return self._dechunked()
        body, self._buffer = self._buffer, b""
        return body

    def _read_head(self) -> bool:
        head, end, rest = self._buffer.partition(_HEAD_END)
        if not end:
            return False
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split()[1])
        headers = dict(_header(line) for line in lines)
        self._chunked = headers.get(b"transfer-encoding") == b"chunked"
        self._buffer = rest
        return True

    def _dechunked(self) -> bytes:
        body = []
        while self._buffer:
            if not self._left:
                size, end, rest = self._buffer.partition(b"\r\n")
                if not end:
                    break
                self._buffer = rest
                self._left = int(size.split(b";")[0], 16) + 2
            # What the chunk still has, without its line end, which may come in pieces too.
            body.append(self._buffer[: max(0, self._left - 2)])
            taken = min(self._left, len(self._buffer))
            self._buffer = self._buffer[taken:]
            self._left -= taken
        return b"".join(body)


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip().lower()
