"""Faults of a real child on a real model, in every phase that can be met from outside.

A streamed and a whole request run side by side; both get what an undisturbed node says.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from tests.faults import failing_model
from tests.faults.failing_harness import running_failing_node, set_fault
from tests.processes import RunningNode, eventually, running_node
from tests.rounds import variants
from tests.soak.garbling_node import COMMAND
from tests.sse import chat_events_from, chat_text
from tests.synthetic_models import WORDS

ASKED: Final = {
    "messages": [{"role": "user", "content": " ".join(WORDS * 12)}],
    "max_tokens": 200,
    "temperature": 0.8,
    "seed": 5,
}
SUPERVISOR: Final = """
stall_timeout = 5
load_stall_timeout = 15
backoff_initial = 0
max_restarts = 100000
max_crashes = 100
"""
FAULTS: Final = {
    "killed": signal.SIGKILL,
    "segfault": signal.SIGSEGV,
    "abort": signal.SIGABRT,
    "terminated": signal.SIGTERM,
    "garbage": signal.SIGUSR1,
    "hang": signal.SIGSTOP,
}
SOME: Final = [
    pytest.param(fault, marks=pytest.mark.full) if fault == "hang" else fault
    for fault in variants(FAULTS, ["killed", "hang"], marker="soak")
]
"""`tox -e full` has hangs too, `tox -e soak` all faults; a fake worker has them all every time."""

ON_THE_WAY_UP: Final = [fault for fault in FAULTS if fault != "garbage"]
"""What cannot speak yet cannot write garbage; the scripted child can."""

MOMENTS: Final = {"asked": 0, "prefill": 1, "decode": 2}
"""Events of the stream that have been read by then; its headers are the first."""

HELD: Final = failing_model.Fault(kind=failing_model.HOLD, at=100)
"""A step that the child does not get beyond until it is gone, or stopped and replaced."""


def nothing(_events: int) -> None:
    """Leave the node alone."""


async def both(url: str, on_event: Callable[[int], None]) -> list[str]:
    """What a streamed and a whole request say; `on_event` is told how far the stream is."""

    async def streamed() -> str:
        text, events = "", 0
        async with session.post(endpoint, json=ASKED | {"stream": True}) as response:
            async for chunk in chat_events_from(response.content):
                events += 1
                on_event(events)
                text += chat_text(chunk)
        return text

    async def whole() -> str:
        async with session.post(endpoint, json=ASKED) as response:
            body = await response.json()
            assert response.status == 200, body
            return str(body["choices"][0]["message"]["content"])

    endpoint = f"{url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session:
        asking = [asyncio.ensure_future(streamed()), asyncio.ensure_future(whole())]
        on_event(0)
        return await asyncio.gather(*asking)


class Fault:
    """A signal to a child, once, at a moment of the stream."""

    def __init__(self, pid: int, number: signal.Signals, moment: int) -> None:
        self._pid = pid
        self._number = number
        self._moment = moment
        self.done = False

    def __call__(self, events: int) -> None:
        if events >= self._moment and not self.done:
            self.done = True
            os.kill(self._pid, self._number)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faulty")


@pytest.fixture(scope="module")
def faulty(tiny: Path, folder: Path) -> Iterator[RunningNode]:
    """With a spare child, where there was time to prepare it."""
    with running_failing_node(
        "tiny", tiny, folder, supervisor=SUPERVISOR, spares=1, command=COMMAND
    ) as node:
        yield node


@pytest.fixture(scope="module")
def alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """Without one: its child is long in STARTING."""
    with node_of(tiny, tmp_path_factory.mktemp("alone"), spares=0) as node:
        yield node


@contextlib.contextmanager
def node_of(model: Path, folder: Path, *, spares: int) -> Iterator[RunningNode]:
    with running_node(
        folder, {"tiny": model}, supervisor=SUPERVISOR, spares=spares, command=COMMAND
    ) as node:
        node.wait_until_ready()
        yield node


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> list[str]:
    said = asyncio.run(both(node.url, nothing))
    assert said[0] == said[1]
    assert len(said[0].split()) > 40
    return said


def state(node: RunningNode) -> str:
    return str(node.model("tiny")["state"])


@pytest.mark.parametrize("fault", SOME)
@pytest.mark.full
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_fault_while_it_works_is_a_pause(
    faulty: RunningNode, folder: Path, expected: list[str], moment: str, fault: str
) -> None:
    eventually(lambda: state(faulty) == "ready")
    before = faulty.model("tiny")
    if moment == "decode":
        set_fault(folder, HELD)
    strike = Fault(before["pid"], FAULTS[fault], MOMENTS[moment])
    assert asyncio.run(both(faulty.url, strike)) == expected
    assert strike.done
    eventually(lambda: faulty.model("tiny")["restarts"] > before["restarts"])


@pytest.mark.parametrize("fault", SOME)
@pytest.mark.full
def test_a_fault_while_it_idles_is_a_wait(
    faulty: RunningNode, expected: list[str], fault: str
) -> None:
    """A hang is seen when there is work: only then is anything missed."""
    eventually(lambda: state(faulty) == "ready")
    before = faulty.model("tiny")
    os.kill(before["pid"], FAULTS[fault])
    assert asyncio.run(both(faulty.url, nothing)) == expected
    eventually(lambda: faulty.model("tiny")["restarts"] > before["restarts"])


@pytest.mark.parametrize("fault", variants(ON_THE_WAY_UP, ["killed", "hang"], marker="soak"))
@pytest.mark.parametrize("phase", variants(["starting", "loading"], ["starting"], marker="soak"))
@pytest.mark.full
def test_a_fault_on_the_way_up_is_a_longer_wait(
    alone: RunningNode, expected: list[str], phase: str, fault: str
) -> None:
    """LOADING of so small a model may pass unseen: then the fault meets it when it is READY."""
    eventually(lambda: state(alone) == "ready")
    before = alone.model("tiny")
    os.kill(before["pid"], signal.SIGKILL)
    later = {"starting": ("starting", "loading", "ready"), "loading": ("loading", "ready")}[phase]

    def there() -> bool:
        entry = alone.model("tiny")
        begun = entry["restarts"] > before["restarts"] and entry["pid"] is not None
        return begun and entry["state"] in later

    eventually(there)
    os.kill(alone.model("tiny")["pid"], FAULTS[fault])
    assert asyncio.run(both(alone.url, nothing)) == expected
    eventually(lambda: alone.model("tiny")["restarts"] >= before["restarts"] + 2)


@pytest.mark.parametrize("fault", SOME)
@pytest.mark.full
def test_a_fault_in_a_drain_is_a_pause_too(
    tiny: Path, tmp_path: Path, expected: list[str], fault: str
) -> None:
    with running_node(tmp_path, {"tiny": tiny}, supervisor=SUPERVISOR, command=COMMAND) as node:
        node.wait_until_ready()
        strike = Fault(node.model("tiny")["pid"], FAULTS[fault], 5)

        def in_the_drain(events: int) -> None:
            if events == 3:
                node.process.send_signal(signal.SIGTERM)
            strike(events)

        assert asyncio.run(both(node.url, in_the_drain)) == expected
        assert strike.done
        assert node.process.wait(60) == 0
