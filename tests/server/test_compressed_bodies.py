"""Compressed bodies: inflated for callers with a key only, never beyond the limit."""

import asyncio
import gzip
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mlx_worker.api.middleware.decompression import MAX_MEMBERS, decompressed
from mlx_worker.errors import BodyTooLarge, InvalidRequest
from tests.server.asking import answer_of, exchange
from tests.server.conftest import BEARER, Connect, Serving
from tests.supervisor_harness import soon

CHAT = json.dumps({"messages": [{"role": "user", "content": "one two"}]}).encode()
LIMIT = 1 << 20


def bare_deflate(data: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return machine.compress(data) + machine.flush()


@cache
def bomb(size: int) -> bytes:
    """Zeros, a thousandth of their size: as JSON a number that is none."""
    machine = zlib.compressobj(wbits=31)
    piece = machine.compress(bytes(1 << 20))
    return (
        piece
        + b"".join(machine.compress(bytes(1 << 20)) for _ in range(size >> 20))
        + (machine.flush())
    )


def request(body: bytes, coding: str | None, **headers: str) -> bytes:
    named = {"Host": "x", "Content-Length": str(len(body))} | headers
    if coding is not None:
        named["Content-Encoding"] = coding
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (None, CHAT),
        ("identity", CHAT),
        ("gzip", gzip.compress(CHAT, mtime=0)),
        ("GZip", gzip.compress(CHAT, mtime=0)),
        ("x-gzip", gzip.compress(CHAT, mtime=0)),
        ("gzip", gzip.compress(CHAT[:9], mtime=0) + gzip.compress(CHAT[9:], mtime=0)),
        ("gzip", gzip.compress(CHAT, mtime=0) + bytes(512)),
        ("deflate", zlib.compress(CHAT)),
        ("deflate", bare_deflate(CHAT)),
    ],
)
async def test_a_body_of_a_known_coding_is_read(
    serving: Serving, coding: str | None, body: bytes
) -> None:
    status, answer = await exchange(await serving(), request(body, coding))
    assert status == 200
    assert json.loads(answer)["choices"][0]["message"]["content"] == "one two"


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "br, gzip", "gzipped"])
async def test_a_body_of_another_coding_is_a_415(
    serving: Serving, connect: Connect, coding: str
) -> None:
    reader, writer = await connect(await serving())
    writer.write(request(b"whatever", coding))
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 415")
    assert b"Accept-Encoding: gzip, deflate" in head


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no gzip",
        gzip.compress(CHAT, mtime=0)[:-9],
        gzip.compress(CHAT, mtime=0) + b"trailing",
        gzip.compress(b"", mtime=0) * (MAX_MEMBERS + 1),
    ],
)
async def test_a_damaged_body_is_a_400(serving: Serving, body: bytes) -> None:
    status, answer = await exchange(await serving(), request(body, "gzip"))
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "invalid_request"


async def test_a_bomb_with_a_key_is_a_413(serving: Serving, keys: Path) -> None:
    url = await serving(api_keys_file=keys, max_body_bytes=LIMIT)
    status, answer = await exchange(url, request(bomb(64 << 20), "gzip", **BEARER))
    assert status == 413
    assert str(LIMIT) in json.loads(answer)["error"]["message"]


async def test_a_body_without_a_key_is_never_inflated(
    serving: Serving, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by this node nor by its HTTP library, which would do so as the bytes arrive."""
    made: list[object] = []
    begin = zlib.decompressobj

    def counted(*args: Any, **more: Any) -> object:
        made.append(args)
        return begin(*args, **more)

    monkeypatch.setattr(zlib, "decompressobj", counted)
    url = await serving(api_keys_file=keys)
    status, _ = await exchange(url, request(bomb(64 << 20), "gzip"))
    assert (status, made) == (401, [])
    status, _ = await exchange(url, request(gzip.compress(CHAT), "gzip", **BEARER))
    assert (status, len(made)) == (200, 1)


async def test_a_refused_body_is_not_waited_for(serving: Serving, keys: Path) -> None:
    """A chunked body without an end blocks its own connection for a moment, and no other."""
    url = await serving(api_keys_file=keys)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    at = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(at[0], int(at[1]))
    try:
        writer.write(head + b"5\r\nhello\r\n")
        assert (await answer_of(reader))[0] == 401
        assert await soon(reader.read()) == b""
    finally:
        writer.close()


def test_decompressed_over_the_limit_stops_before_the_end() -> None:
    with pytest.raises(BodyTooLarge):
        decompressed(bomb(64 << 20), "gzip", 1000)
    assert decompressed(gzip.compress(b"x" * 1000), "gzip", 1000) == b"x" * 1000
    with pytest.raises(BodyTooLarge):
        decompressed(gzip.compress(b"x" * 1001), "gzip", 1000)


def test_a_body_that_goes_on_after_its_deflate_data_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="goes on"):
        decompressed(zlib.compress(CHAT) + b"more", "deflate", LIMIT)
