"""Who may come in, and how the node proves itself: keys, addresses, certificate. [front]

All are read again with the configuration while the node runs; connections that are open stay open,
and new ones meet what is new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from mlx_worker.config.addresses import Networks
from mlx_worker.security.api_keys import load_keys
from mlx_worker.security.tls import load_certificate, server_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import ServerConfig

RELOADABLE = frozenset({"api_keys_file", "insecure", "trusted"})
TLS_KEYS = frozenset({"tls_cert", "tls_key"})


class Credentials:
    """The keys, the trusted addresses and the certificate that hold now.

    Raises ConfigError where a file is wrong.
    """

    def __init__(self, server: ServerConfig) -> None:
        self._running = server
        self.keys = load_keys(server)
        self.trusted = Networks.read(server.trusted)
        self.tls = server_context(server)

    @property
    def are_required(self) -> bool:
        """True if a caller needs a key or a trusted address."""
        return bool(self.keys or self.trusted)

    def load_new(self, server: ServerConfig) -> Callable[[], None]:
        """Read the files of a new configuration; what is returned makes them hold.

        Raises ConfigError, and nothing has changed. The node listens where it did: whether it may
        do without keys is asked of that.
        """
        keys = load_keys(msgspec.structs.replace(server, host=self._running.host))
        trusted = Networks.read(server.trusted)
        # A trial beforehand: half of a new pair in the context in use would end all handshakes.
        renews_certificate = server_context(server) is not None and self.tls is not None

        def apply() -> None:
            self.keys, self.trusted = keys, trusted
            if renews_certificate and self.tls is not None:
                load_certificate(self.tls, server)

        return apply

    def is_reloadable(self, key: str, server: ServerConfig) -> bool:
        """Does a key of `[server]` hold without a restart? TLS cannot begin or end on a socket."""
        if key in TLS_KEYS:
            return self.tls is not None and server.tls_cert is not None
        return key in RELOADABLE


CREDENTIALS: web.AppKey[Credentials] = web.AppKey("credentials", Credentials)
