"""Where the front listens: at every address of its host, on one port."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from mlx_worker.config.schema import ServerConfig
from mlx_worker.errors import AddressInUse
from mlx_worker.listening import MAX_ATTEMPTS, bind_socket, listen, url_of_socket

if TYPE_CHECKING:
    from collections.abc import Iterator


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the machine has no ::1")


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[list[str]]:
    """Listen, and say at which URLs."""
    with ExitStack() as open_sockets:
        sockets = listen(ServerConfig(host=host, port=port))
        for sock in sockets:
            open_sockets.enter_context(sock)
        yield [url_of_socket(sock, None) for sock in sockets]


def reaches(host: str, url: str) -> bool:
    port = int(url.rpartition(":")[2])
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


@needs_ipv6
def test_listen_localhost_is_both_addresses_on_one_free_port() -> None:
    with listening("localhost") as urls:
        v4, v6 = urls
        port = v4.rpartition(":")[2]
        assert urls == [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
        assert reaches("127.0.0.1", v4)
        assert reaches("::1", v6)


@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_listen_localhost_is_the_address_that_the_machine_has(absent: int, number: int) -> None:
    missing = ("127.0.0.1", "::1")[absent]

    def bind(address: str, port: int) -> socket.socket:
        if address == missing:
            raise OSError(number, "not here")
        return bind_socket("127.0.0.1", port)

    (sock,) = listen(ServerConfig(host="localhost", port=0), bind)
    sock.close()


def test_listen_no_address_at_all_is_said() -> None:
    def bind(address: str, port: int) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "not here")

    with pytest.raises(AddressInUse, match="not here"):
        listen(ServerConfig(host="localhost", port=0), bind)


@needs_ipv6
def test_listen_port_that_another_program_has_at_one_address_is_taken() -> None:
    """Else a client of the one address would reach the other program."""
    with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"::1 port {port}"):
            listen(ServerConfig(host="localhost", port=port))
        with closing(socket.create_server(("127.0.0.1", port))):
            pass  # nothing of the node's is left there


@needs_ipv6
def test_listen_free_port_is_looked_for_until_it_is_free_at_both() -> None:
    tried: list[int] = []

    def bind(address: str, port: int) -> socket.socket:
        if address == "::1":
            tried.append(port)
            if len(tried) < MAX_ATTEMPTS:
                raise OSError(errno.EADDRINUSE, "in use")
        return bind_socket(address, port)

    sockets = listen(ServerConfig(host="localhost", port=0), bind)
    assert {sock.getsockname()[1] for sock in sockets} == {tried[-1]}
    assert len(tried) == MAX_ATTEMPTS
    for sock in sockets:
        sock.close()


@needs_ipv6
def test_listen_every_address_takes_both_families() -> None:
    with listening("::") as (url,):
        assert reaches("::1", url)
        assert reaches("127.0.0.1", url) == socket.has_dualstack_ipv6()


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_listen_an_address_is_that_address_alone(host: str) -> None:
    with listening(host) as (url,):
        assert reaches(host, url)
        other = "::1" if host == "127.0.0.1" else "127.0.0.1"
        assert not reaches(other, url)
