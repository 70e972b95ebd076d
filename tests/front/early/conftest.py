"""A front in injected time: minutes of loading and reading pass in milliseconds."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace

from mlx_worker.config.schema import Config, ModelConfig, ServerConfig, SupervisorConfig
from mlx_worker.config.sizes import MemoryLimit
from mlx_worker.health import RequestStats
from mlx_worker.server import build_app
from mlx_worker.supervisor.process.lifecycle import Timings
from tests.front.asking import Front, model
from tests.injected_time import InjectedTimeLoop, inject_time
from tests.supervisor_harness import ALONE, NO_DISK, PLENTY, eventually
from tests.worker_in_memory import MemoryLauncher

ON_DEMAND = model(preload=False)
DEFAULTS = ServerConfig()


class ServeInTime(Protocol):
    """Start a front with the product's own deadlines, whose workers have these flags."""

    async def __call__(
        self, *flags: str | Path, configured: ModelConfig = ..., server: ServerConfig = ...
    ) -> Front: ...


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"injected": InjectedTimeLoop}


@pytest.fixture
async def serve_in_time(nano: Path) -> AsyncIterator[ServeInTime]:
    async with AsyncExitStack() as stack:

        async def start(
            *flags: str | Path,
            configured: ModelConfig = ON_DEMAND,
            server: ServerConfig = DEFAULTS,
        ) -> Front:
            app = build_app(
                Config(
                    models=(configured,),
                    server=replace(server, models_dir=nano.parent),
                    supervisor=SupervisorConfig(memory_limit=MemoryLimit(PLENTY)),
                    cache=NO_DISK,
                ),
                stats=RequestStats(),
                timings=Timings(),
                standby=ALONE,
                launcher=MemoryLauncher(tuple(map(str, flags))),
            )
            connector = aiohttp.TCPConnector(force_close=True)
            client = TestClient(TestServer(app), connector=connector)
            front = Front(await stack.enter_async_context(client))
            await eventually(front.knows_folders)
            inject_time()
            return front

        yield start
