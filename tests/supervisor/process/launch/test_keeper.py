"""The keeper of a rank, with a small program in the rank's place."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from mlx_worker.supervisor.process.launch.keeper import EXIT_UNUSABLE, SIGNALLED
from mlx_worker.wire.framing import encode, frames_from_child
from mlx_worker.wire.messages import PROTOCOL, Kept
from mlx_worker.wire.rank_place import KeepRank
from tests.processes import DEADLINE, eventually, has_ended

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.process

KEEPER = """
import sys
from mlx_worker.supervisor.process.launch.keeper import keep_rank
sys.exit(keep_rank((sys.executable, "-c", sys.argv[1]), float(sys.argv[2])))
"""

ECHO = """
import os, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pipe = socket.socket(fileno=int(sys.argv[2]))
pipe.sendall(str(os.getpid()).encode())
while True:
    data = pipe.recv(65536)
    if data == b"exit":
        sys.exit(7)
    if data:
        pipe.sendall(data)
"""
"""A rank that says its process id and then what is said to it, and that heeds no EOF."""


HERE = KeepRank()


@contextlib.contextmanager
def keeper(
    silence: float = DEADLINE, order: KeepRank = HERE
) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    command = [sys.executable, "-c", KEEPER, ECHO, str(silence)]
    with (
        ours,
        theirs,
        subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno()) as process,
    ):
        theirs.close()
        ours.sendall(encode(order))
        try:
            yield ours, process
        finally:
            process.kill()


def received(pipe: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = pipe.recv(1 << 16)
        assert more, "the keeper closed the pipe"
        data += more
    return data


def rank_of(pipe: socket.socket) -> psutil.Process:
    return psutil.Process(int(pipe.recv(64)))


def test_keeper_passes_bytes_on_both_ways() -> None:
    with keeper() as (pipe, _):
        rank_of(pipe)
        for length in (1, 4, 1000, 1 << 15):
            said = bytes(i % 256 for i in range(length))
            pipe.sendall(said)
            assert received(pipe, length) == said


def test_keeper_ends_with_the_exit_code_of_its_rank() -> None:
    with keeper() as (pipe, process):
        rank_of(pipe)
        pipe.sendall(b"exit")
        assert process.wait(DEADLINE) == 7


def test_keeper_names_the_signal_that_ended_its_rank() -> None:
    with keeper() as (pipe, process):
        rank_of(pipe).kill()
        assert process.wait(DEADLINE) == SIGNALLED + signal.SIGKILL


@pytest.mark.parametrize("is_stopped", [False, True])
def test_closed_pipe_ends_a_rank_that_heeds_nothing(*, is_stopped: bool) -> None:
    with keeper() as (pipe, process):
        rank = rank_of(pipe)
        if is_stopped:
            rank.suspend()
        pipe.close()
        assert process.wait(DEADLINE) == 0
        assert has_ended(rank)


def test_silence_ends_a_rank_once_the_front_has_spoken() -> None:
    with keeper(silence=0.1) as (pipe, process):
        rank = rank_of(pipe)
        pipe.sendall(b"ping")
        assert process.wait(DEADLINE) == 0
        assert has_ended(rank)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux's")
def test_killed_keeper_leaves_no_rank_even_a_stopped_one() -> None:
    with keeper() as (pipe, process):
        rank = rank_of(pipe)
        rank.suspend()
        process.kill()
        eventually(lambda: has_ended(rank))


def test_front_that_orders_nothing_is_gone() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", KEEPER, ECHO, "0.1"]
    with (
        ours,
        theirs,
        subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno()) as process,
    ):
        assert process.wait(DEADLINE) == 0


def kept_by(pipe: socket.socket) -> Kept:
    """What a keeper on another host says first."""
    frames = frames_from_child()
    while not (messages := list(frames.feed(pipe.recv(1)))):
        pass
    assert isinstance(messages[0], Kept)
    return messages[0]


def test_keeper_on_another_host_can_be_reached_until_the_front_speaks() -> None:
    with keeper(order=KeepRank("127.0.0.1")) as (pipe, _):
        kept = kept_by(pipe)
        assert (kept.protocol, kept.problem) == (PROTOCOL, "")
        socket.create_connection(("127.0.0.1", kept.port)).close()
        rank_of(pipe)
        pipe.sendall(b"ping")
        assert received(pipe, 4) == b"ping"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", kept.port))


def test_keeper_on_another_host_makes_the_environment_of_its_rank() -> None:
    order = KeepRank("127.0.0.1", {"MLX_METAL_FAST_SYNCH": "1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSH_AUTH_SOCK", "/nowhere")
        with keeper(order=order) as (pipe, _):
            kept_by(pipe)
            environ = rank_of(pipe).environ()
    assert environ["MLX_METAL_FAST_SYNCH"] == "1"
    assert environ["HF_HUB_OFFLINE"] == "1"
    assert "SSH_AUTH_SOCK" not in environ


def test_keeper_names_an_address_that_its_host_does_not_have() -> None:
    with keeper(order=KeepRank("192.0.2.1")) as (pipe, process):
        assert kept_by(pipe).problem.startswith("Cannot assign requested address")
        assert process.wait(DEADLINE) == EXIT_UNUSABLE
