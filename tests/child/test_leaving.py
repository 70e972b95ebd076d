"""A real child with KV on disk: what is on disk once it has left, and that nothing holds it."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from mlx_worker.kv_disk.files.records import KV_KINDS
from mlx_worker.supervisor.process.launch.process import CHILD_COMMAND
from mlx_worker.wire.messages import DiskCache, Generate, Hello, Leave, Loaded
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.prompt_cache import CacheCleared, ClearCache, DiskState
from tests.child.test_child import ENDLESS, Front, child, generate, load
from tests.kv_disk.headers import headers_below
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GIB = 1 << 30
PATIENCE = 60.0
LONG = " ".join([*WORDS, *WORDS])

STUCK = """
import os, threading
def hang(*_):
    threading.Event().wait()
os.pwrite = os.pwritev = hang
from mlx_worker.child.__main__ import main
main()
"""
"""A child whose disk takes the first write and never ends it."""


@contextlib.contextmanager
def child_with_disk(
    model: Path, folder: Path, command: Sequence[str] = CHILD_COMMAND
) -> Iterator[Front]:
    with child(measured=False, command=command) as front:
        front.receive(Hello)
        disk = DiskCache(str(folder), GIB, GIB, 0)
        front.send(msgspec.structs.replace(load(model), disk=disk))
        front.receive(Loaded)
        yield front


def in_session(id_: int, text: str, max_tokens: int) -> Generate:
    return msgspec.structs.replace(generate(id_, text, max_tokens), session="s")


def with_system_prompt(id_: int) -> Generate:
    message = generate(id_, "Hello", 1)
    messages = [{"role": "system", "content": LONG}, *message.request.messages]
    request = msgspec.structs.replace(message.request, messages=messages)
    return msgspec.structs.replace(message, request=request)


def ends_on_disk(folder: Path) -> list[int]:
    """Where the records of KV below the folder end, in tokens."""
    headers = headers_below(folder)
    return sorted(header.stop for header in headers if header.address.kind in KV_KINDS)


@pytest.mark.full
def test_a_child_writes_its_sessions_before_it_leaves(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    with child_with_disk(tiny, folder) as front:
        front.send(with_system_prompt(1))
        front.receive(Done)
        while front.receive(DiskState).records < 2:
            pass
        assert ends_on_disk(folder)
        front.send(ClearCache(2))
        front.receive(CacheCleared)
        assert ends_on_disk(folder) == []
        front.send(in_session(3, LONG, 4), in_session(4, "Hello", ENDLESS))
        front.receive(Done)
        front.receive(StepOutput)
        assert ends_on_disk(folder) == []
        front.send(Leave(PATIENCE))
        assert front.process.wait(PATIENCE) == 0
    # The state of the session that had ended, and that of the answer that was cut off.
    running, first, ended = ends_on_disk(folder)
    assert running < first == 256 < ended


@pytest.mark.full
def test_a_child_whose_front_is_gone_ends_at_once(tiny: Path, tmp_path: Path) -> None:
    with child_with_disk(tiny, tmp_path / "kv") as front:
        front.send(in_session(1, LONG, 4))
        front.receive(Done)
        front.socket.close()
        assert front.process.wait(PATIENCE) == 0
    assert ends_on_disk(tmp_path / "kv") == []


@pytest.mark.full
def test_a_disk_that_hangs_does_not_hold_a_child(tiny: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-c", STUCK)
    with child_with_disk(tiny, tmp_path / "kv", command) as front:
        front.send(with_system_prompt(1))
        front.receive(Done)
        front.send(in_session(2, LONG, 4))
        front.receive(Done)
        front.send(Leave(1.0))
        assert front.process.wait(PATIENCE) == 0
