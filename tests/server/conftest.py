"""A node behind its own door: `serve` as the command runs it, with scripted children."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest
import uvloop

from mlx_worker.config.schema import Config, ModelConfig, ServerConfig, SupervisorConfig
from mlx_worker.config.sizes import MemoryLimit
from mlx_worker.server import serve
from tests.server.asking import bare
from tests.supervisor_harness import NO_DISK, PLENTY, eventually, scripted, soon

SUPERVISOR = SupervisorConfig(
    standby=0, drain_timeout=0, memory_limit=MemoryLimit(PLENTY), prevent_sleep="never"
)
KEY = "sk-of-alice-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class Serving(Protocol):
    """Start a node with this `[server]` and children with these flags; its URL once it serves."""

    def __call__(self, *flags: str | Path, **server: object) -> Awaitable[str]: ...


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connect(Protocol):
    """Open a bare connection, which is closed before the node has to end."""

    def __call__(self, url: str) -> Awaitable[Connection]: ...


class Over(Exception):
    """The test needs the node no more."""


@asynccontextmanager
async def served(config: Config, *flags: str | Path) -> AsyncIterator[str]:
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def beside(url: str) -> None:
        listening.set_result(url)
        await over.wait()
        raise Over

    node = asyncio.create_task(serve(config, on_listening=beside, launcher=scripted(*flags)))
    try:
        yield await soon(listening)
    finally:
        over.set()
        with contextlib.suppress(Over):
            await soon(node)


@pytest.fixture
async def serving(nano: Path) -> AsyncIterator[Serving]:
    async with AsyncExitStack() as stack:

        async def start(*flags: str | Path, **server: object) -> str:
            config = Config(
                models=(ModelConfig(id="m", path="nano", default=True),),
                server=ServerConfig(port=0, models_dir=nano.parent, **server),  # type: ignore[arg-type]
                supervisor=SUPERVISOR,
                cache=NO_DISK,
            )
            url = await stack.enter_async_context(served(config, *flags))
            if config.server.tls_cert is None:
                await ready(url)
            return url

        yield start


async def ready(url: str) -> None:
    """Wait until its model serves."""
    async with aiohttp.ClientSession() as session:

        async def so() -> bool:
            async with session.get(f"{url}/health/ready") as answer:
                return answer.ok

        await eventually(so)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file of keys: alice's, which is KEY, and bob's."""
    file = tmp_path / "keys"
    file.write_text(f"# who may ask\nalice:{KEY}\n\nbob: sk-of-bob-0123456789\n")
    file.chmod(0o600)
    return file


@pytest.fixture
async def connect(serving: Serving) -> AsyncIterator[Connect]:
    opened: list[Connection] = []

    async def connected(url: str) -> Connection:
        opened.append(await bare(url))
        return opened[-1]

    yield connected
    for _, writer in opened:
        writer.close()
