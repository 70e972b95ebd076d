"""Everything goes wrong at once, for long: no answer is lost, none is wrong, nothing is left over.

32 clients ask two real models for answers that are known, while faults befall the node one after
the other; /health is asked all the while. MLX_WORKER_TEST_ROUNDS sets how many faults
there are: `tox -e soak` has 300. What was seen is printed (`pytest -s`).
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest

from tests.processes import CONFIG, RunningNode, eventually, has_ended, running_node
from tests.rounds import SEED, rounds
from tests.soak.asking import Ask, Client, Outcome, Tally, bodies
from tests.soak.faults import Faults
from tests.soak.garbling_child import FOLDER
from tests.soak.garbling_node import COMMAND
from tests.soak.watch import Watch

pytestmark = pytest.mark.soak


FAULTS: Final = rounds(9, 9, 300)
CLIENTS: Final = 32
BODIES: Final = 30
SUPERVISOR: Final = """
stall_timeout = 4
load_stall_timeout = 20
backoff_initial = 0.1
backoff_max = 0.1
max_restarts = 100000
max_crashes = 100
load_wait = 120
drain_timeout = 5
"""
PLACES: Final = "max_concurrency = 16\nmax_queue = 32\nprefill_pause = 0.1"


@dataclass(frozen=True)
class Holdings:
    """What the front has of the machine."""

    descriptors: int
    threads: int
    children: int
    megabytes: float


def holdings(node: RunningNode) -> Holdings:
    front = psutil.Process(node.process.pid)
    return Holdings(
        front.num_fds(),
        front.num_threads(),
        len(front.children(recursive=True)),
        front.memory_info().rss / 1e6,
    )


@pytest.fixture
def garbled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where children tell that they write garbage."""
    folder = tmp_path / "garbled"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture
def soaked(tiny: Path, tmp_path: Path, garbled: Path) -> Iterator[RunningNode]:
    models = {"one": tiny, "two": tiny}
    with running_node(
        tmp_path, models, supervisor=SUPERVISOR, extra=PLACES, spares=1, command=COMMAND
    ) as node:
        node.wait_until_ready()
        # Files are read beside the event loop: the thread for that stays once it is there.
        assert node.ask("/admin/reload", method="POST").status == 200
        eventually(lambda: len(node.ask("/health").json["standby"]["waiting"]) == 1)
        yield node


async def soak(
    node: RunningNode, config: Path, garbled: Path, tally: Tally
) -> tuple[Faults, Watch]:
    """All of it, until the node is whole again."""
    chance = random.Random(SEED)
    asked = bodies(["one", "two"], chance, BODIES)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = Client(node.url, session, tally)
        for body in asked:
            await client.learn(body)
        watch = Watch(node.url, session, garbled)
        await watch.until_whole()
        faults = Faults(node.url, session, client, asked, watch, config, chance)
        polling = asyncio.create_task(watch.run())
        clients = [asyncio.create_task(keep_asking(client, asked, chance)) for _ in range(CLIENTS)]
        await faults.run(FAULTS, tally)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients)
        assert not polling.done()
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling
        await watch.until_whole()
    return faults, watch


async def keep_asking(client: Client, asked: list[dict[str, Any]], chance: random.Random) -> None:
    """One request after the other; told to stop, it finishes the one it has begun."""
    asking: asyncio.Task[Outcome] | None = None
    try:
        while True:
            ask = Ask(chance.choice(asked), stream=chance.random() < 0.7)
            asking = asyncio.create_task(client.ask(ask))
            if await asyncio.shield(asking) is Outcome.REFUSED:
                await asyncio.sleep(1)  # it comes back when it was told to
    except asyncio.CancelledError:
        if asking is not None:
            await asking


@pytest.mark.timeout(60 + 20 * FAULTS)
def test_no_answer_is_lost_and_nothing_is_left_over(
    soaked: RunningNode, tmp_path: Path, garbled: Path
) -> None:
    before = holdings(soaked)
    tally = Tally()
    faults, watch = asyncio.run(soak(soaked, tmp_path / CONFIG, garbled, tally))
    eventually(lambda: holdings(soaked).descriptors <= before.descriptors)
    after = holdings(soaked)
    family = soaked.children()
    assert soaked.stop() == 0
    orphans = [process for process in family if not has_ended(process)]
    orphans += [psutil.Process(number) for number in watch.seen if psutil.pid_exists(number)]
    ended = tally.ended
    print(  # noqa: T201  (what was seen is the point)
        f"\nfaults {faults.done.total()}: {dict(faults.done)}"
        f"\nrequests {ended.total()}: {dict(ended)}"
        f"\n/health: {watch.polls} polls, {watch.unanswered} unanswered, {len(watch.untrue)} "
        f"untrue after a second, slowest {1000 * watch.slowest:.0f} ms"
        f"\nfront before {before}\nfront after  {after}\norphans {len(orphans)}"
    )
    assert faults.done.total() == FAULTS
    assert ended[Outcome.EXACT] > FAULTS
    assert tally.complaints == []
    assert (ended[Outcome.LOST], ended[Outcome.WRONG]) == (0, 0)
    assert (watch.unanswered, watch.untrue) == (0, [])
    assert orphans == []
    assert (after.threads, after.children) == (before.threads, before.children)
