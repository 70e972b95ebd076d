"""The base URL of a node: from its configuration, or as a user writes it.

[front]
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from mlx_worker.config.schema import ServerConfig

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PATHS_OF_CLIENTS: Final = re.compile(r"(/v1)*/*$")
"""The end of a URL that clients are configured with; the paths of commands begin before it."""


def url_of(server: ServerConfig) -> str:
    """Return the URL of a node with this configuration, as seen from its own machine."""
    host = server.host
    if host != "localhost":
        address = ipaddress.ip_address(host)
        v6 = address.version == 6  # noqa: PLR2004  (the protocol's name)
        if address.is_unspecified:
            host = "::1" if v6 else "127.0.0.1"
        if v6:
            host = f"[{host}]"
    scheme = "http" if server.tls_cert is None else "https"
    return f"{scheme}://{host}:{server.port}"


DEFAULT_URL: Final = url_of(ServerConfig())
"""Where a node listens whose configuration names no address."""


def read_url(text: str) -> str:
    """Return the base URL that a user means: `studio`, `studio:8081`, `http://studio:8081/v1`.

    Without a scheme the URL is http, and without a port too the port is the default one. Raises
    ValueError with the problem.
    """
    has_scheme = _SCHEME.match(text) is not None
    try:
        parts = urlsplit(text if has_scheme else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{text!r}: the scheme is {parts.scheme}, but a node speaks http or https")
    if not host or any(character.isspace() for character in text):
        raise ValueError(f"{text!r} is no URL such as http://127.0.0.1:8081")
    if parts.query or parts.fragment:
        raise ValueError(f"{text!r}: a base URL has no {'?' if parts.query else '#'} in it")
    place = parts.netloc
    if not has_scheme and port is None:
        place = f"{place}:{ServerConfig().port}"
    return f"{parts.scheme}://{place}{_PATHS_OF_CLIENTS.sub('', parts.path)}"
