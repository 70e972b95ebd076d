"""What a broken connection means, in words: the HTTP library names objects of its own.

[front]
"""

from __future__ import annotations

import aiohttp


def in_words(error: Exception) -> str:
    """Return what happened to a connection, in one line."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} cannot be resolved; is this machine online?"
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {error.host} is not valid: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            reason = error.os_error.strerror or str(error.os_error) or type(error.os_error).__name__
            return f"no connection to {error.host}:{error.port}: {reason}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "the connection was closed in the middle"
        case TimeoutError():
            return "no answer in time; is this machine online?"
        case _:
            return str(error) or type(error).__name__
