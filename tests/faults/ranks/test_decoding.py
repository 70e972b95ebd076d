"""The end, the stop and the garbage of each process of a model that decodes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.ranks.harness import (
    A_FEW,
    BLOWS,
    BODIES,
    PARTS,
    Blow,
    Part,
    Strike,
    Watched,
    kill,
    streams,
)

if TYPE_CHECKING:
    from tests.processes import RunningNode

GARBAGE: Final = b"\xff" * 64
PIDFD_GETFD: Final = 438
"""The number of the system call on every Linux."""


def garble(pid: int) -> None:
    """Write garbage to the front, as if the keeper had sent it."""
    pidfd = os.pidfd_open(pid)
    output = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, 1, 0)
    os.close(pidfd)
    assert output >= 0, os.strerror(ctypes.get_errno())
    os.write(output, GARBAGE)
    os.close(output)


@pytest.mark.full
@pytest.mark.parametrize("blow", BLOWS, ids=str)
def test_end_or_stop_of_any_process_while_decoding_is_a_pause(
    node: RunningNode, expected: list[str], blow: Blow
) -> None:
    strike = Strike(node, blow, A_FEW)
    watched = Watched(strike)
    assert asyncio.run(streams(node, blow.part.model, BODIES, watched)) == expected
    strike.check(watched, "decoding")
    if blow.deal is kill and blow.part.name in ("rank 1", "rank 2"):
        how = node.model(blow.part.model)["last_exit"]["how"]
        assert how == f"{blow.part.name}: killed by SIGKILL"


@pytest.mark.skipif(sys.platform != "linux", reason="writes to the pipe of another process")
@pytest.mark.full
@pytest.mark.parametrize("part", [part for part in PARTS if "keeper" in part.name], ids=str)
def test_garbage_of_a_rank_is_a_pause(node: RunningNode, expected: list[str], part: Part) -> None:
    strike = Strike(node, Blow(part, garble), A_FEW)
    watched = Watched(strike)
    assert asyncio.run(streams(node, part.model, BODIES, watched)) == expected
    strike.check(watched, "decoding")
    assert "garbage on the pipe" in strike.lines
