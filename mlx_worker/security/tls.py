"""TLS contexts: the certificate of the node, and the check of it by commands.

[front]
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from mlx_worker.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.config.schema import ServerConfig


def server_context(server: ServerConfig) -> ssl.SSLContext | None:
    """Return the TLS context of the node's connections; None if they are not encrypted.

    Raises ConfigError if the files are not a certificate and its key.
    """
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = _without_old_protocols(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    load_certificate(context, server)
    return context


def load_certificate(context: ssl.SSLContext, server: ServerConfig) -> None:
    """Load the certificate for later handshakes. Raises ConfigError as `server_context` does."""
    assert server.tls_cert is not None, "callers check for a certificate"
    try:
        # No prompt for a password: a node has no user at a terminal.
        context.load_cert_chain(server.tls_cert, server.tls_key, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"server.tls_cert, server.tls_key: {server.tls_cert} and {server.tls_key} are not a"
            f" certificate and its unencrypted key: {error.reason or error}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"server.tls_cert, server.tls_key: {server.tls_cert} or {server.tls_key} cannot be"
            f" read: {error.strerror}"
        ) from error


def client_context(certificate: Path | None) -> ssl.SSLContext:
    """Return the TLS context with which a command calls a node.

    Without a certificate, the system's authorities are trusted. The certificate is the node's own
    file, read from the node's own disk: the file proves the node, so no authority has to sign the
    certificate and the certificate need not name an address.
    """
    if certificate is None:
        return _without_old_protocols(ssl.create_default_context())
    try:
        context = _without_old_protocols(ssl.create_default_context(cafile=certificate))
    except OSError as error:
        raise ConfigError(f"server.tls_cert: {certificate} cannot be read: {error}") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _without_old_protocols(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return the context, which takes TLS 1.2 and later.

    Python as Debian builds it leaves that to the system's OpenSSL, which may allow TLS 1.0.
    """
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    return context
