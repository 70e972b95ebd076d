"""One file over HTTP: resumable, retried, and checked before the file may be used.

The bytes go into PATH.part; only when their SHA-256 is the expected one does the file get its
name. A .part that is left by an interruption is where the next attempt goes on. [front]
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final

import aiohttp

from mlx_worker import __version__
from mlx_worker.errors import BrokenDownload, SourceUnavailable
from mlx_worker.models.pull.disk import require_space
from mlx_worker.models.pull.network import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlx_worker.models.pull.progress import Progress

PAUSES: Final = (0.5, 1.0, 2.0)  # seconds before each further attempt

_CHUNK: Final = 1 << 20
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE, _SERVER_ERROR = 206, 416, 500
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)


class _InterruptedError(Exception):
    """An attempt failed, but another attempt may succeed."""


def open_session() -> aiohttp.ClientSession:
    """Open an HTTP session with proxies and a user agent; seconds of silence end it."""
    agent = f"mlx-worker/{__version__}"
    return aiohttp.ClientSession(
        timeout=_TIMEOUT,
        trust_env=True,
        headers={"User-Agent": agent, "Accept-Encoding": "identity"},
    )


async def download(
    session: aiohttp.ClientSession,
    url: str,
    path: Path,
    expected_sha256: Sequence[str],
    on_progress: Progress,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """Bring `url` to `path`, going on from `path`.part where there is one.

    Returns the SHA-256 in hex. Raises BrokenDownload (and deletes the bytes) when it is not
    every one of `expected_sha256`, SourceUnavailable when the server refuses or every attempt
    broke off (the .part stays then), StorageError when the rest does not fit on the disk.
    """
    part = path.with_name(path.name + ".part")
    for pause in (*pauses, None):
        try:
            await _attempt(session, url, part, on_progress)
            break
        except _InterruptedError as error:
            if pause is None:
                raise SourceUnavailable(f"cannot download {url}: {error}") from error
            await asyncio.sleep(pause)
    actual = await sha256(part)
    if any(actual != expected for expected in expected_sha256):
        part.unlink()
        wanted = " and ".join(dict.fromkeys(expected_sha256))
        raise BrokenDownload(
            f"{url} has SHA-256 {actual} instead of {wanted}; the download was deleted"
        )
    part.rename(path)
    return actual


async def sha256(path: Path) -> str:
    """Hash a file between other work of the event loop."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
        await asyncio.sleep(0)
    return digest.hexdigest()


async def _attempt(
    session: aiohttp.ClientSession, url: str, part: Path, on_progress: Progress
) -> None:
    have = _size(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        async with session.get(url, headers=headers) as response:
            if have and response.status == _RANGE_NOT_SATISFIABLE:
                _settle_unsatisfiable(response, part, have)
                return
            _require_success(response)
            await _receive(response, part, have, on_progress)
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
        raise _InterruptedError(in_words(error)) from error
    except aiohttp.ClientError as error:
        raise SourceUnavailable(f"cannot download {url}: {in_words(error)}") from error


def _settle_unsatisfiable(response: aiohttp.ClientResponse, part: Path, have: int) -> None:
    """Find ours complete when the server has no more bytes, else drop them: they are not its."""
    if response.headers.get("Content-Range") != f"bytes */{have}":
        _drop(part)
        raise _InterruptedError("the server has a shorter file than the one begun")


def _require_success(response: aiohttp.ClientResponse) -> None:
    if response.status >= _SERVER_ERROR:
        raise _InterruptedError(f"the server answered {response.status}")
    if not response.ok:
        raise SourceUnavailable(f"cannot download {response.url}: HTTP {response.status}")


async def _receive(
    response: aiohttp.ClientResponse, part: Path, have: int, on_progress: Progress
) -> None:
    """Append the body, or start over where the server sends the file from its beginning."""
    goes_on = response.status == _PARTIAL_CONTENT
    if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        _drop(part)
        raise _InterruptedError("the server sent another range than the requested one")
    done = have if goes_on else 0
    rest = response.content_length
    require_space(part.parent, rest or 0, part.name)
    total = None if rest is None else done + rest
    with part.open("ab" if goes_on else "wb") as file:
        async for chunk in response.content.iter_chunked(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            on_progress(done, total)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _drop(part: Path) -> None:
    part.unlink()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
