"""Requests to a node's own socket: by a client, and byte by byte."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from tests.front.asking import Answer
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from collections.abc import Mapping


async def ask(
    url: str,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    source: str | None = None,
) -> Answer:
    """One request on a connection of its own; `body` is sent as JSON.

    `source` is the local address that the connection comes from.
    """
    data = None if body is None else json.dumps(body).encode()
    verb = method or ("GET" if data is None else "POST")
    local = None if source is None else (source, 0)
    connector = aiohttp.TCPConnector(local_addr=local)
    async with aiohttp.ClientSession(connector=connector) as session:
        asked = session.request(verb, URL(url + path, encoded=True), data=data, headers=headers)
        response = await soon(asked)
        return Answer(response.status, response.headers, await soon(response.read()))


async def bare(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection."""
    at = urlsplit(url)
    return await soon(asyncio.open_connection(at.hostname, at.port, limit=1 << 20))


async def exchange(url: str, data: bytes) -> tuple[int, bytes]:
    """Send bytes, read one answer's head and its body by the length that it names."""
    reader, writer = await bare(url)
    try:
        writer.write(data)
        return await answer_of(reader)
    finally:
        writer.close()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of the next answer on a connection."""
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    length = re.search(rb"(?i)content-length: (\d+)", head)
    body = await soon(reader.readexactly(int(length[1]))) if length else b""
    return int(head.split()[1]), body
