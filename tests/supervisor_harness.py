"""What tests with the fake worker share: its launchers, its pace, nodes with short patience."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import psutil

from mlx_worker.config.schema import CacheConfig, ModelConfig
from mlx_worker.models.folder import ModelFolder
from mlx_worker.models.resolve import PlannedModel
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.launch.launcher import Launcher, ProcessLauncher
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
from mlx_worker.supervisor.process.lifecycle import Timings
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.generation import Generation
from mlx_worker.supervisor.requests.output_buffer import OutputDelta
from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
from mlx_worker.supervisor.starter import ModelFolderAccess
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.worker_in_memory import RUNNING, MemoryLauncher

DEADLINE = 10.0
"""Seconds that any single wait may take on a busy machine; what is awaited takes milliseconds."""

QUICK = Timings(start=DEADLINE, load=DEADLINE, stall=DEADLINE, drain=0.2, stop=2, kill=5, ping=0.02)
"""Nothing but what a test sets ever ends a child here."""

PATIENT = ResumePolicy(timeout=DEADLINE, load_wait=0, max_crashes=3, keepalive_interval=DEADLINE)
"""What was lost waits; what is new is refused at once where there is no child."""

AT_ONCE = RestartPolicy(base=0.01, ceiling=0.01, intensity=3, period=600)
"""A restart without a pause, three times."""

ALONE = StandbyPolicy(spares=0)
"""No process but those of the models: each flag of a scripted child is one child's."""

NO_DISK = CacheConfig(disk=False)
"""No KV on disk: what is kept there has its tests, in folders of their own."""

PLENTY = 1 << 40
"""Bytes: nothing here needs as many."""

NOT_READY = tuple(state for state in State if state is not State.READY)

T = TypeVar("T")


@dataclass(slots=True)
class Workers:
    """Where fake workers run unless a test says so: `--workers` sets it (tests/conftest.py)."""

    in_processes: bool = False


WORKERS = Workers()

WORKER: Final = Path(__file__).with_name("worker_in_process.py")
"""By its path: a test may work in another folder."""


def scripted(*flags: str | Path) -> Launcher:
    """Start workers with these flags in the test's own process: what nearly all tests need.

    With `--workers process` each of them is a process, as where a test asks for one.
    """
    if WORKERS.in_processes:
        return scripted_process(*flags)
    return MemoryLauncher(tuple(map(str, flags)))


def scripted_process(*flags: str | Path) -> Launcher:
    """Start workers with these flags in processes of their own."""
    return ProcessLauncher(scripted_command(*flags))


def scripted_command(*flags: str | Path) -> tuple[str, ...]:
    return (sys.executable, str(WORKER), *map(str, flags))


class Fifo:
    """A named pipe that a scripted child waits on; the test lets it go on."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # Both ends: neither opening it nor a child's death ever blocks or closes it.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def let(self, steps: int) -> None:
        """Allow this many more steps."""
        os.write(self._fd, b"." * steps)


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for it, but not for ever."""
    async with asyncio.timeout(DEADLINE):
        return await awaitable


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is true: for what has no event, such as another side's report."""
    async with asyncio.timeout(DEADLINE):
        while not await true():  # noqa: ASYNC110  (it has no event: that is the point)
            await asyncio.sleep(0.01)


def alive(pid: int | None) -> bool:
    """Return True if there is such a worker or process that is not a mere zombie."""
    assert pid is not None
    if pid in RUNNING:
        return True
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_worker(pid: int | None, number: int = signal.SIGKILL) -> None:
    """Send a signal to a worker, wherever it runs."""
    assert pid is not None
    if pid in RUNNING:
        RUNNING[pid].send_signal(number)
    else:
        os.kill(pid, number)


def planned(model_id: str = "model", *, weights: int = 1, **settings: Any) -> PlannedModel:
    """A configured model whose folder nobody opens, with weights of so many bytes."""
    path = Path("/nowhere") / model_id
    folder = ModelFolder(path, "llama", 8192, weights, has_chat_template=True)
    return PlannedModel(ModelConfig(id=model_id, path=model_id, **settings), folder)


def chat(text: str, *, system: str | None = None, max_tokens: int | None = None) -> ChatRequest:
    """A request that the scripted child answers with the words of `text`."""
    head = [] if system is None else [{"role": "system", "content": system}]
    turns = [*head, {"role": "user", "content": text}]
    return ChatRequest(turns, Sampling(seed=1), max_tokens=max_tokens)


def nowhere(config: ModelConfig) -> ModelFolder:
    """The folder that `planned` gives a model: found without a look at any disk."""
    return planned(config.id).inspected


def started_workers() -> list[int]:
    """Return the numbers of the workers that a supervisor in this process has started.

    Other tests in the same process may keep others: a whole node, one in which grammars are tried.
    """
    ours = str(WORKER)
    processes = [child.pid for child in psutil.Process().children() if ours in child.cmdline()]
    return [*RUNNING, *processes]


NOWHERE = ModelFolderAccess(inspect=nowhere, places=lambda _: [])


@asynccontextmanager
async def running(
    *models: PlannedModel,
    launcher: Launcher,
    timings: Timings = QUICK,
    policy: RestartPolicy = AT_ONCE,
    resume: ResumePolicy = PATIENT,
    standby: StandbyPolicy = ALONE,
    memory_limit: int = PLENTY,
    folders: ModelFolderAccess = NOWHERE,
    prepared: Callable[[], Awaitable[object]] | None = None,
    cache: CacheConfig = NO_DISK,
) -> AsyncIterator[Node]:
    """A started node; in the end it is stopped, whatever the test left running."""
    node = Node(
        models or (planned(),),
        timings=timings,
        policy=policy,
        resume=resume,
        standby=standby,
        memory_limit=memory_limit,
        launcher=launcher,
        folders=folders,
        prepared=prepared,
        cache=cache,
    )
    await node.kv_folder.open()
    node.start()
    try:
        yield node
    finally:
        await soon(node.stop())


async def ready(node: Node) -> Node:
    """The node once all its preloaded models are READY."""
    for served in node.models.values():
        if served.config.preload:
            await soon(served.child.reached(State.READY))
    return node


async def taken(generation: Generation) -> OutputDelta | None:
    """The next piece of a generation; None at its end. Raises what went wrong."""
    news = asyncio.Event()
    generation.output.subscribe(news.set)
    while (piece := generation.output.drain()) is None:
        if generation.has_ended:
            generation.raise_for_error()
            return None
        news.clear()
        await soon(news.wait())
    return piece


async def text_of(generation: Generation) -> str:
    """The next text of a generation; "" at its end."""
    piece = await taken(generation)
    return piece.text if piece else ""


async def whole_text(generation: Generation) -> str:
    """The rest of the text of a generation, to its end."""
    text = ""
    while piece := await text_of(generation):
        text += piece
    return text
