"""A real PEP 503 index on the loopback, with the misbehaviour of real networks."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.test_utils import TestServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


def wheel_bytes(members: Mapping[str, bytes]) -> bytes:
    """A wheel is a zip; these are its files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


class PackageIndex:
    """Serves one file of one project; set the attributes to make it misbehave."""

    def __init__(self, filename: str, content: bytes) -> None:
        self.filename = filename
        self.content = content
        self.page_sha256: str | None = hashlib.sha256(content).hexdigest()
        self.ranges = True
        self.status = 200
        self.wrong_range = False
        # For each request to come: break off after so many bytes.
        self.cuts: list[int] = []
        # Stop after so many bytes until `released` is set.
        self.stall_after: int | None = None
        self.released = asyncio.Event()
        # What clients asked for: (Range, User-Agent) of each file request.
        self.asked: list[tuple[str | None, str | None]] = []
        self.url = ""

    @property
    def file_url(self) -> str:
        return f"{self.url}/files/{self.filename}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[PackageIndex]:
        app = web.Application()
        app.router.add_get("/simple/{project}/", self._page)
        app.router.add_get("/files/{name}", self._file)
        async with TestServer(app) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield self
            self.released.set()

    async def _page(self, request: web.Request) -> web.Response:
        project = self.filename.partition("-")[0].replace("_", "-")
        if request.match_info["project"] != project:
            raise web.HTTPNotFound
        fragment = f"#sha256={self.page_sha256}" if self.page_sha256 else ""
        links = f'<a href="../../files/{self.filename}{fragment}">{self.filename}</a>'
        return web.Response(text=f"<html><body>{links}</body></html>", content_type="text/html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        self.asked.append((asked, request.headers.get("User-Agent")))
        if self.status != 200:
            return web.Response(status=self.status)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        size = len(self.content)
        if start >= size:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
        response = web.StreamResponse(status=206 if start else 200)
        if start:
            shown = 0 if self.wrong_range else start
            response.headers["Content-Range"] = f"bytes {shown}-{size - 1}/{size}"
        response.content_length = size - start
        await response.prepare(request)
        await self._send(request, response, self.content[start:])
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, body: bytes) -> None:
        if self.cuts:
            await response.write(body[: self.cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return
        if self.stall_after is not None:
            await response.write(body[: self.stall_after])
            await self.released.wait()
            body = body[self.stall_after :]
        await response.write(body)
        await response.write_eof()
