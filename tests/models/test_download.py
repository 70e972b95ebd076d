"""One file over HTTP, from servers that behave and servers that do not."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

import pytest

from mlx_worker import __version__
from mlx_worker.errors import BrokenDownload, SourceUnavailable, StorageError
from mlx_worker.models.pull.disk import require_space, storing
from mlx_worker.models.pull.download import download, open_session
from mlx_worker.models.pull.progress import no_progress
from tests.models.package_index import PackageIndex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()
AT_ONCE = (0.0, 0.0, 0.0)


@pytest.fixture
async def server() -> AsyncIterator[PackageIndex]:
    async with PackageIndex("file.bin", CONTENT).running() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


def part_of(path: Path) -> Path:
    return path.with_name("file.bin.part")


def saved(path: Path) -> bytes:
    return path.read_bytes()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def fetch(server: PackageIndex, path: Path, *expected: str) -> str:
    async with open_session() as session:
        return await download(
            session, server.file_url, path, expected or (DIGEST,), no_progress, AT_ONCE
        )


async def test_the_file_arrives_under_its_name(server: PackageIndex, path: Path) -> None:
    assert await fetch(server, path) == DIGEST
    assert saved(path) == CONTENT
    assert names_in(path.parent) == {"file.bin"}
    assert server.asked == [(None, f"mlx-worker/{__version__}")]


async def test_progress_counts_up_to_the_size(server: PackageIndex, path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    async with open_session() as session:
        await download(session, server.file_url, path, (DIGEST,), lambda d, t: seen.append((d, t)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


async def test_it_goes_on_where_an_earlier_attempt_stopped(
    server: PackageIndex, path: Path
) -> None:
    part_of(path).write_bytes(CONTENT[:1000])
    await fetch(server, path)
    assert saved(path) == CONTENT
    assert [asked for asked, _ in server.asked] == ["bytes=1000-"]


async def test_a_server_without_ranges_means_starting_over(
    server: PackageIndex, path: Path
) -> None:
    server.ranges = False
    part_of(path).write_bytes(b"x" * 1000)
    await fetch(server, path)
    assert saved(path) == CONTENT


async def test_a_wrong_range_means_starting_over(server: PackageIndex, path: Path) -> None:
    server.wrong_range = True
    part_of(path).write_bytes(CONTENT[:1000])
    await fetch(server, path)
    assert saved(path) == CONTENT
    assert [asked for asked, _ in server.asked] == ["bytes=1000-", None]


async def test_a_whole_part_is_only_checked(server: PackageIndex, path: Path) -> None:
    part_of(path).write_bytes(CONTENT)
    await fetch(server, path)
    assert saved(path) == CONTENT


async def test_a_part_longer_than_the_file_means_starting_over(
    server: PackageIndex, path: Path
) -> None:
    part_of(path).write_bytes(CONTENT + b"more")
    await fetch(server, path)
    assert saved(path) == CONTENT


async def test_connections_cut_half_way_are_mended(server: PackageIndex, path: Path) -> None:
    server.cuts = [400_000, 300_000]
    await fetch(server, path)
    assert saved(path) == CONTENT
    assert len(server.asked) == 3


async def test_connections_cut_for_ever_are_given_up_and_the_part_stays(
    server: PackageIndex, path: Path
) -> None:
    server.cuts = [1000] * 10
    with pytest.raises(SourceUnavailable, match="cannot download http"):
        await fetch(server, path)
    assert len(server.asked) == 1 + len(AT_ONCE)
    assert names_in(path.parent) == {"file.bin.part"}
    assert saved(part_of(path))
    assert CONTENT.startswith(saved(part_of(path)))


async def test_wrong_bytes_are_deleted(server: PackageIndex, path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(BrokenDownload, match=f"instead of {DIGEST}"):
        await fetch(server, path)
    assert names_in(path.parent) == set()


async def test_every_expected_digest_must_fit(server: PackageIndex, path: Path) -> None:
    with pytest.raises(BrokenDownload):
        await fetch(server, path, DIGEST, "0" * 64)


async def test_a_server_error_is_tried_again(server: PackageIndex, path: Path) -> None:
    server.status = 503
    with pytest.raises(SourceUnavailable, match="503"):
        await fetch(server, path)
    assert len(server.asked) == 1 + len(AT_ONCE)


async def test_a_refusal_is_final(server: PackageIndex, path: Path) -> None:
    server.status = 403
    with pytest.raises(SourceUnavailable, match="HTTP 403"):
        await fetch(server, path)
    assert len(server.asked) == 1


async def test_nobody_there_is_said_so(nobody_listens: str, path: Path) -> None:
    async with open_session() as session:
        with pytest.raises(SourceUnavailable, match=r"no connection to 127\.0\.0\.1:\d+: "):
            await download(session, nobody_listens, path, (), no_progress, AT_ONCE)


async def test_an_address_that_is_none_is_said_so(path: Path) -> None:
    async with open_session() as session:
        with pytest.raises(SourceUnavailable, match="file:///x"):
            await download(session, "file:///x", path, (), no_progress, AT_ONCE)


def test_too_little_room_is_said_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"big needs 1152921\.5 TB in .* only [\d.]+ .B are free"
    ):
        require_space(tmp_path, 1 << 60, "big")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_refusing_disk_is_no_traceback(code: int, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot store /x/y: .* .B free"), storing(tmp_path):
        raise OSError(code, "no", "/x/y")


def test_a_refusing_disk_that_cannot_be_asked_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot store .*gone: no$"), storing(tmp_path / "gone"):
        raise OSError(errno.ENOSPC, "no")


def test_other_errors_of_the_system_are_not_the_disks(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), storing(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
