"""Hold the API keys, the trusted addresses and the certificate that are in effect.

All are read again with the configuration while the node runs. Open connections stay open, and new
connections meet the new credentials.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mlx_worker.config.addresses import Networks
from mlx_worker.security.api_keys import load_keys
from mlx_worker.security.tls import load_certificate, server_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import ServerConfig

RELOADABLE_KEYS = frozenset({"api_keys_file", "insecure", "trusted"})
TLS_KEYS = frozenset({"tls_cert", "tls_key"})


class Credentials:
    """The keys, the trusted addresses and the certificate that are in effect now.

    Raises ConfigError where a file is wrong.
    """

    def __init__(self, server: ServerConfig) -> None:
        self._running = server
        self.keys = load_keys(server)
        self.trusted = Networks.read(server.trusted)
        self.tls = server_context(server)

    @property
    def are_required(self) -> bool:
        """True if a client needs a key or a trusted address."""
        return bool(self.keys or self.trusted)

    def load_new(self, server: ServerConfig) -> Callable[[], None]:
        """Read the files of a new configuration, and return a function that applies them.

        Raises ConfigError, and then nothing has changed. The node keeps its addresses, so whether
        it may run without keys is decided by the host that it listens at now.
        """
        keys = load_keys(msgspec.structs.replace(server, host=self._running.host))
        trusted = Networks.read(server.trusted)
        # Load the new pair into a trial context first: half of a pair in the context in use would
        # fail every handshake.
        renews_certificate = server_context(server) is not None and self.tls is not None

        def apply() -> None:
            self.keys, self.trusted = keys, trusted
            if renews_certificate and self.tls is not None:
                load_certificate(self.tls, server)

        return apply

    def is_reloadable(self, key: str, server: ServerConfig) -> bool:
        """Return True if a key of `[server]` takes effect without a restart.

        TLS can neither begin nor end at a socket that is open.
        """
        if key in TLS_KEYS:
            return self.tls is not None and server.tls_cert is not None
        return key in RELOADABLE_KEYS
