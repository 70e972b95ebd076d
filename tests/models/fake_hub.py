"""A Hugging Face hub on the loopback: the few endpoints that a snapshot download asks."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.test_utils import TestServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REPO = "some-org/Tiny-Llama"
COMMIT = "c0ffee" * 6 + "c0ff"


class FakeHub:
    """Serves the files of one repository; large ones (safetensors) are LFS files there."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.gated = False
        self.lfs_sha256: str | None = None
        self.downloaded: list[str] = []
        # Cleared: large files stop half-way until it is set.
        self.released = asyncio.Event()
        self.released.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Give the hub's URL, as HF_ENDPOINT wants it."""
        app = web.Application()
        prefix = f"/api/models/{REPO}"
        app.router.add_get(prefix, self._info)
        app.router.add_get(prefix + "/revision/{revision}", self._info)
        app.router.add_get(prefix + "/tree/{revision}", self._tree)
        app.router.add_get(f"/{REPO}/resolve/{{revision}}/{{name:.+}}", self._file)
        app.router.add_route("*", "/{other:.*}", self._unknown)
        async with TestServer(app) as server:
            yield str(server.make_url("")).rstrip("/")

    async def _unknown(self, _request: web.Request) -> web.Response:
        return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound"})

    async def _info(self, request: web.Request) -> web.Response:
        if self.gated:
            return web.Response(status=403, headers={"X-Error-Code": "GatedRepo"})
        if request.match_info.get("revision", "main") not in {"main", COMMIT}:
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} | self._facts(name, "blobId") for name in self.files]
        return web.json_response({"id": REPO, "sha": COMMIT, "siblings": siblings})

    async def _tree(self, _request: web.Request) -> web.Response:
        tree = [{"type": "file", "path": name} | self._facts(name, "oid") for name in self.files]
        return web.json_response(tree)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        content = self.files[name]
        response = web.StreamResponse(headers={"X-Repo-Commit": COMMIT, "ETag": f'"{_git(name)}"'})
        response.content_length = len(content)
        await response.prepare(request)
        if request.method == "GET":
            self.downloaded.append(name)
            half = len(content) // 2 if name.endswith(".safetensors") else len(content)
            await response.write(content[:half])
            await self.released.wait()
            await response.write(content[half:])
        await response.write_eof()
        return response

    def _facts(self, name: str, id_key: str) -> dict[str, Any]:
        content = self.files[name]
        facts: dict[str, Any] = {id_key: _git(name), "size": len(content)}
        if name.endswith(".safetensors"):
            digest = self.lfs_sha256 or hashlib.sha256(content).hexdigest()
            id_of_lfs = "sha256" if id_key == "blobId" else "oid"
            facts["lfs"] = {id_of_lfs: digest, "size": len(content), "pointerSize": 130}
        return facts


def _git(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()
