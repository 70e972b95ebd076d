"""What a service manager hears of a node: a stand-in for its socket listens."""

from __future__ import annotations

import asyncio
import os
import queue
import secrets
import signal
import socket
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from mlx_worker.service.sd_notify import Notifier
from tests.processes import COMMAND, DEADLINE, eventually, running_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # It reads all the time, as a manager does: ten datagrams are all that a socket keeps.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def receive(self) -> list[str]:
        """The next thing that is no sign of life."""
        while (said := self.next()) == ["WATCHDOG=1"]:
            pass
        return said

    def next(self, within: float = DEADLINE) -> list[str]:
        """The next thing. Raises queue.Empty where there is none in time."""
        return self._heard.get(timeout=within).decode().split("\n")

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RD)
        self._reader.join()  # which may be about to read: the file must still be there
        self.sock.close()

    def _read(self) -> None:
        while said := self.sock.recv(4096):
            self._heard.put(said)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.mark.full
@pytest.mark.process
def test_a_node_says_when_it_listens_reloads_and_stops(
    nano: Path, tmp_path: Path, manager: Manager
) -> None:
    told = {"NOTIFY_SOCKET": tmp_path / "notify", "WATCHDOG_USEC": "200000"}
    command = ("env", *(f"{key}={value}" for key, value in told.items()), *COMMAND)
    with running_node(tmp_path, {"nano": nano}, command=command) as node:
        assert manager.receive() == ["READY=1"]
        assert node.ask("/health/live").status == 200
        assert [manager.next() for _ in range(3)] == [["WATCHDOG=1"]] * 3
        node.wait_until_ready()
        eventually(lambda: bool(node.children()))
        for child in node.children():
            assert "NOTIFY_SOCKET" not in child.environ()
        node.process.send_signal(signal.SIGHUP)
        reloading, moment = manager.receive()
        assert reloading == "RELOADING=1"
        assert int(moment.removeprefix("MONOTONIC_USEC=")) > 0
        assert manager.receive() == ["READY=1"]
        (tmp_path / "mlx-worker.toml").write_text("nonsense")
        node.process.send_signal(signal.SIGHUP)
        assert manager.receive()[0] == "RELOADING=1"
        assert manager.receive() == ["READY=1"], "it goes on as it was"
        front = psutil.Process(node.process.pid)
        front.send_signal(signal.SIGTERM)
        assert manager.receive() == ["STOPPING=1"]
        assert node.process.wait(DEADLINE) == 0


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux has abstract sockets")
def test_a_socket_of_the_abstract_space_is_found() -> None:
    name = f"mlx-worker-{secrets.token_hex(8)}"
    manager = Manager("\0" + name)
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
    assert manager.receive() == ["READY=1"]
    manager.close()


async def test_signs_of_life_come_at_half_the_time_and_end(
    tmp_path: Path, manager: Manager
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
    with Notifier(environ | {"WATCHDOG_PID": str(os.getpid())}):
        for _ in range(3):
            assert await asyncio.to_thread(manager.next) == ["WATCHDOG=1"]
    Notifier({"NOTIFY_SOCKET": environ["NOTIFY_SOCKET"]}).stopping()
    assert (await asyncio.to_thread(manager.receive)) == ["STOPPING=1"]
    with pytest.raises(queue.Empty):
        await asyncio.to_thread(manager.next, within=0.2)  # ten beats long
    assert environ.keys() == {"NOTIFY_SOCKET", "WATCHDOG_USEC"}


@pytest.mark.parametrize("more", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
async def test_no_signs_of_life_where_none_are_wanted(
    tmp_path: Path, manager: Manager, more: dict[str, str]
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"} | more
    with Notifier(environ) as notifier:
        notifier.ready()
    assert environ == {}
    assert await asyncio.to_thread(manager.next) == ["READY=1"]


def test_a_manager_that_has_gone_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    assert "could not be notified of READY=1" in caplog.text
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": "relative"}).ready()
    assert len(caplog.records) == 1
