"""Every fault in every phase of a child's life, streamed and not, through HTTP.

The child is held in a phase by a named pipe; the fault comes from outside, as a signal. Whatever
happens, the client gets its whole answer, also from a node that is going away.
"""

import asyncio
import signal
from dataclasses import dataclass, replace
from typing import Final

import pytest

from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.front.asking import Front, Serve
from tests.supervisor_harness import PATIENT, QUICK, WORKERS, Fifo, eventually, kill_worker, soon

TEXT: Final = "one two three four"

FAULTS: Final = {
    "killed": signal.SIGKILL,
    "segfault": signal.SIGSEGV,
    "abort": signal.SIGABRT,
    "hang": signal.SIGSTOP,
    "exit": signal.SIGUSR2,
    "garbage": signal.SIGUSR1,
}


@dataclass(frozen=True)
class Phase:
    """What holds the child there, what /health says of it, and the words it has said by then."""

    hold: str
    state: str
    words: int = 0
    asked: bool = True


PHASES: Final = {
    "starting": Phase("--hold-hello", "starting"),
    "loading": Phase("--hold-load", "loading"),
    "idle": Phase("--pace", "ready", asked=False),
    "queued": Phase("--hold-start", "ready"),
    "prefill": Phase("--pace", "ready"),
    "decode": Phase("--pace", "ready", words=2),
    "draining": Phase("--pace", "draining", words=2),
}

PATIENCE: Final = 1.0 if WORKERS.in_processes else 0.25
"""Seconds: a process takes longer to start, and to be seen to work."""

TIMINGS: Final = replace(QUICK, start=3 * PATIENCE, load=PATIENCE, stall=PATIENCE, drain=3600)
NEVER_POISON: Final = replace(PATIENT, load_wait=3600, timeout=3600, max_crashes=100)
NEVER_GIVEN_UP: Final = RestartPolicy(base=0.01, ceiling=0.01, intensity=100, period=600)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", PHASES)
async def test_a_fault_in_a_phase(
    serve: Serve, pace: Fifo, phase: str, fault: str, stream: bool
) -> None:
    where = PHASES[phase]
    front = await serve(
        where.hold,
        pace.path,
        timings=TIMINGS,
        policy=NEVER_GIVEN_UP,
        resume=NEVER_POISON,
        wait=False,
    )
    asking = asyncio.ensure_future(front.chat(TEXT, stream=stream)) if where.asked else None
    await held(front, pace, where)
    stopping = None
    if phase == "draining":
        stopping = asyncio.ensure_future(front.node.stop())
    await front.reaches(state=where.state)
    pid = front.node.primary.child.status.pid
    assert pid is not None
    kill_worker(pid, FAULTS[fault])
    if asking is None:
        asking = asyncio.ensure_future(front.chat(TEXT, stream=stream))
    await eventually(lambda: another(front, pid))
    pace.let(100)
    answer = await soon(asking)
    assert (answer.status, answer.text) == (200, TEXT)
    if stream:
        assert answer.events[-1] == "[DONE]"
    if stopping is not None:
        await soon(stopping)
    assert front.node.primary.admission.running == 0


async def held(front: Front, pace: Fifo, where: Phase) -> None:
    """Wait until the request is where the phase wants it."""
    if where.state in ("starting", "loading"):
        await front.reaches(state=where.state)
        return
    await front.reaches(state="ready")
    if not where.asked:
        return

    async def in_hand() -> bool:
        return front.node.primary.child.open_ids == 1

    await eventually(in_hand)
    if where.words:
        pace.let(where.words)

        async def said() -> bool:
            pong = front.node.primary.child.status.pong
            return pong is not None and pong.decode_steps == where.words

        await eventually(said)


async def another(front: Front, pid: int) -> bool:
    now = front.node.primary.child.status.pid
    return now is not None and now != pid
