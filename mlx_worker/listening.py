"""Open the sockets that the front listens on, and name their URLs.

`localhost` is two addresses: a client tries ::1 or 127.0.0.1 first, and some clients try only one.
The node listens on those that the machine has, on one port. `::` accepts IPv4 too, where the system
supports that.

[front]
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import AddressInUse

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from mlx_worker.config.schema import ServerConfig

    Bind = Callable[[str, int], socket.socket]
    """A function from (address, port) to a socket that listens there."""

BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a burst must not meet a full queue."""

LOCALHOST: Final = ("127.0.0.1", "::1")

MAX_ATTEMPTS: Final = 16
"""Free ports of one address to try until one is free at the other address too."""

_NO_SUCH_ADDRESS: Final = frozenset(
    {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT}
)
"""Errors of a system that does not have an address, or its family."""


def bind_socket(address: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises OSError."""
    is_v6 = ":" in address
    return socket.create_server(
        (address, port),
        family=socket.AF_INET6 if is_v6 else socket.AF_INET,
        backlog=BACKLOG,
        dualstack_ipv6=address == "::" and socket.has_dualstack_ipv6(),
    )


def listen(server: ServerConfig, bind: Bind = bind_socket) -> list[socket.socket]:
    """Return sockets that listen at every address of the host. Raises AddressInUse."""
    addresses = LOCALHOST if server.host == "localhost" else (server.host,)
    for _ in range(MAX_ATTEMPTS - 1):
        try:
            return _listen_at(addresses, server.port, bind)
        except AddressInUse:
            if server.port != 0:
                raise
    return _listen_at(addresses, server.port, bind)


def _listen_at(addresses: Iterable[str], port: int, bind: Bind) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for address in addresses:
        try:
            sockets.append(bind(address, port))
        except OSError as error:
            if error.errno in _NO_SUCH_ADDRESS:
                missing = error
                continue
            for opened in sockets:
                opened.close()
            raise _port_taken(address, port, error) from error
        port = sockets[-1].getsockname()[1]
    if missing is not None and not sockets:
        raise _port_taken(address, port, missing) from missing
    return sockets


def _port_taken(address: str, port: int, error: OSError) -> AddressInUse:
    return AddressInUse(f"cannot listen on {address} port {port}: {error.strerror}")


def url_of_socket(sock: socket.socket, tls: ssl.SSLContext | None) -> str:
    """Return the base URL of the node at a socket."""
    scheme = "http" if tls is None else "https"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
