"""Commands to a node that runs already, over its own HTTP. [front]"""

from __future__ import annotations

import ipaddress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

from mlx_worker.errors import ConfigError, NodeUnreachable, UnknownModel, WorkerError

if TYPE_CHECKING:
    from mlx_worker.config import ServerConfig

PATIENCE = aiohttp.ClientTimeout(total=30)
"""A node answers such a command at once."""


def url_of(server: ServerConfig) -> str:
    """Where a node with this configuration is reached from its own machine."""
    host = server.host
    if host != "localhost":
        address = ipaddress.ip_address(host)
        v6 = address.version == 6  # noqa: PLR2004  (the protocol's name)
        if address.is_unspecified:
            host = "::1" if v6 else "127.0.0.1"
        if v6:
            host = f"[{host}]"
    return f"http://{host}:{server.port}"


async def restart(url: str, model: str) -> None:
    """Ask for a new process of a model; returns when the node has agreed.

    Raises NodeUnreachable, UnknownModel, or WorkerError with what the node said.
    """
    await _post(url, f"/admin/models/{quote(model)}/restart")


async def reload(url: str) -> dict[str, list[str]]:
    """Have the node read its configuration again; returns what came of it, as the node says it.

    Raises NodeUnreachable, or ConfigError with what the node said.
    """
    answer: dict[str, list[str]] = await _post(url, "/admin/reload")
    return answer


_BY_STATUS = {HTTPStatus.NOT_FOUND: UnknownModel, HTTPStatus.UNPROCESSABLE_ENTITY: ConfigError}


async def _post(url: str, path: str) -> Any:
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.post(url + path) as response,
        ):
            body = await response.json()
            if response.ok:
                return body
            said = body["error"]["message"]
    except (OSError, TimeoutError, aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
        raise NodeUnreachable(f"no node answers at {url}: {error}") from error
    raise _BY_STATUS.get(HTTPStatus(response.status), WorkerError)(said)
