"""The connection between two ranks, and what ends it."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from mlx_worker.child.ranks.link import UNCONFIRMED, prepare_link, watch_link

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 60.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


def test_system_asks_an_idle_connection_and_gives_up(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    prepare_link(ours)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        option = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert option == UNCONFIRMED * 1000


def test_failed_connection_is_told_while_nothing_reads_it(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    lost = threading.Event()
    watch_link(ours, lost.set)
    theirs.sendall(b"unread, and no end")
    assert not lost.is_set()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()  # with a reset
    assert lost.wait(DEADLINE)
