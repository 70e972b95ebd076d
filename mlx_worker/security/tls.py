"""TLS by a certificate and its key, on both sides of the node's own socket. [front]"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from mlx_worker.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.config.schema import ServerConfig


def server_context(server: ServerConfig) -> ssl.SSLContext | None:
    """What the node's connections begin with; None: they are not encrypted.

    Raises ConfigError where the files are not a certificate and its key.
    """
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, server)
    return context


def load_certificate(context: ssl.SSLContext, server: ServerConfig) -> None:
    """What handshakes from here on show. Raises ConfigError as `server_context` does."""
    assert server.tls_cert is not None, "asked where there is one"
    try:
        # No question on a terminal: a node has nobody there to answer it.
        context.load_cert_chain(server.tls_cert, server.tls_key, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"server.tls_cert, server.tls_key: {server.tls_cert} and {server.tls_key} are no"
            f" certificate and its unencrypted key: {error.reason or error}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"server.tls_cert, server.tls_key: {server.tls_cert} or {server.tls_key} cannot be"
            f" read: {error.strerror}"
        ) from error


def client_context(certificate: Path | None) -> ssl.SSLContext:
    """What a command asks a node with: that very certificate, else those that the system trusts.

    The certificate is the node's own file, read from the node's own disk: it need be nobody else's
    word, and name no address.
    """
    if certificate is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=certificate)
    except OSError as error:
        raise ConfigError(f"server.tls_cert: {certificate} cannot be read: {error}") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
