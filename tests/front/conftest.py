"""A front on a port of its own, on the loop that the product runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace

from mlx_worker.config.schema import (
    CacheConfig,
    Config,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)
from mlx_worker.config.sizes import MemoryLimit
from mlx_worker.health import RequestStats
from mlx_worker.server import build_app
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
from mlx_worker.supervisor.process.lifecycle import Timings
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
from tests.front.asking import Front, Serve, StandIn, model
from tests.supervisor_harness import (
    ALONE,
    AT_ONCE,
    NO_DISK,
    PATIENT,
    PLENTY,
    QUICK,
    Fifo,
    eventually,
    scripted,
)

DEFAULTS = ServerConfig()
NO_TELEMETRY = TelemetryConfig()
SUPERVISOR = SupervisorConfig(memory_limit=MemoryLimit(PLENTY))


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve(nano: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(
            *flags: str | Path,
            models: tuple[ModelConfig, ...] = (model(),),
            server: ServerConfig = DEFAULTS,
            supervisor: SupervisorConfig = SUPERVISOR,
            telemetry: TelemetryConfig = NO_TELEMETRY,
            cache: CacheConfig = NO_DISK,
            timings: Timings = QUICK,
            policy: RestartPolicy = AT_ONCE,
            resume: ResumePolicy = PATIENT,
            standby: StandbyPolicy = ALONE,
            wait: bool = True,
        ) -> Front:
            app = build_app(
                Config(
                    models=models,
                    server=replace(server, models_dir=nano.parent),
                    supervisor=replace(supervisor, prevent_sleep="never"),
                    telemetry=telemetry,
                    cache=cache,
                ),
                stats=RequestStats(),
                timings=timings,
                policy=policy,
                resume=resume,
                standby=standby,
                launcher=scripted(*flags),
            )
            # A connection a request: one that the node closes after a broken stream must not be
            # taken again before its end has been seen.
            connector = aiohttp.TCPConnector(force_close=True)
            client = TestClient(TestServer(app), connector=connector)
            front = Front(await stack.enter_async_context(client))
            await eventually(front.knows_folders)
            if wait:
                await eventually(front.serves_preloaded)
            return front

        yield start


@pytest.fixture
async def standing_in() -> AsyncIterator[StandIn]:
    servers = []

    async def start(*routes: web.RouteDef) -> str:
        app = web.Application()
        app.add_routes(routes)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return str(server.make_url("")).rstrip("/")

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
def pace(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "pace") as fifo:
        yield fifo


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "hold") as fifo:
        yield fifo
