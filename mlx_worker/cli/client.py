"""The client of a running node: requests and commands over the node's HTTP API.

This is the only module of the package that sends requests to a node. An answer becomes a value, and
every failure becomes one error. [front]
"""

from __future__ import annotations

import ipaddress
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

from mlx_worker.config.schema import KEY_VARIABLE
from mlx_worker.errors import (
    ConfigError,
    ModelBusy,
    NodeUnreachable,
    Unauthorized,
    UnknownModel,
    WorkerError,
)
from mlx_worker.security.api_keys import first_key
from mlx_worker.security.tls import client_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from mlx_worker.config.schema import ServerConfig

DEFAULT_TIMEOUT = aiohttp.ClientTimeout(total=30)
"""Timeout of reports and commands, which a node answers at once."""

UNLIMITED_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30)
"""Timeout of streams and of requests that wait for a model."""


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


@dataclass(frozen=True)
class NodeClient:
    """A running node: its base URL, the key to send, and the certificate that identifies it.

    Without a certificate, the system's authorities are trusted. Every method raises
    NodeUnreachable, Unauthorized, UnknownModel, or another error of the node as a WorkerError.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    certificate: Path | None = None

    @classmethod
    def at(cls, url: str) -> NodeClient:
        """Return the node at this URL, with the key of this environment."""
        return cls(url.rstrip("/"), os.environ.get(KEY_VARIABLE) or None)

    @classmethod
    def of(cls, server: ServerConfig) -> NodeClient:
        """Return the node of this configuration, with this environment's key, else its first one.

        Raises ConfigError for keys that cannot be read.
        """
        key = os.environ.get(KEY_VARIABLE) or first_key(server)
        return cls(url_of(server), key, server.tls_cert)

    async def get(self, path: str, **query: str | None) -> Any:
        """Return the node's answer for this path; parameters that are None are left out."""
        return await self._request("GET", path, query=query)

    async def health(self) -> dict[str, Any]:
        """Return the body of `/health`."""
        body: dict[str, Any] = await self.get("/health")
        return body

    async def act(self, model: str, verb: str) -> None:
        """Send `load`, `unload` or `restart` for a model; returns when the node has accepted.

        Raises ModelBusy too.
        """
        await self._request("POST", f"/admin/models/{quote(model)}/{verb}")

    async def reload(self) -> dict[str, list[str]]:
        """Make the node read its configuration again; return the changes that it reports.

        Raises ConfigError too.
        """
        answer: dict[str, list[str]] = await self._request("POST", "/admin/reload")
        return answer

    async def warm(self, prompt: str, model: str | None) -> dict[str, Any]:
        """Have a system prompt prefilled and kept, once the model is there."""
        body = {"system_prompt": prompt} | ({"model": model} if model else {})
        answer: dict[str, Any] = await self._request(
            "POST", "/cache/warm", body, limit=UNLIMITED_TIMEOUT
        )
        return answer

    async def clear(self, model: str | None) -> list[str]:
        """Have cached prompts forgotten; the models that had."""
        answer = await self._request("DELETE", "/cache", query={"model": model})
        cleared: list[str] = answer["cleared"]
        return cleared

    @asynccontextmanager
    async def events(
        self, method: str, path: str, body: Any = None, **query: str | None
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """Open a stream of parsed events. Raises WorkerError for an event with `error`."""
        async with self._open_response(method, path, body, query, UNLIMITED_TIMEOUT) as response:
            yield self._parse_events(response)

    async def _parse_events(self, response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
        try:
            async for line in response.content:
                field, _, data = line.decode().strip().partition(": ")
                if field != "data" or data == "[DONE]":  # an empty line, a comment or the end
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise WorkerError(event["error"]["message"])
                yield event
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise NodeUnreachable(f"the node at {self.url} broke off: {error}") from error

    async def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | None] | None = None,
        limit: aiohttp.ClientTimeout = DEFAULT_TIMEOUT,
    ) -> Any:
        async with self._open_response(method, path, body, query or {}, limit) as response:
            return await self._json(response)

    @asynccontextmanager
    async def _open_response(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str | None],
        limit: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a successful response. Raises the node's error for any other."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        tls = client_context(self.certificate)
        async with aiohttp.ClientSession(timeout=limit, headers=headers) as session:
            try:
                response = await session.request(
                    method,
                    self.url + path,
                    json=body,
                    ssl=tls,
                    params={key: value for key, value in query.items() if value is not None},
                )
            except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
                raise self._unreachable(error) from error
            async with response:
                if not response.ok:
                    raise await self._refusal(response)
                yield response

    async def _json(self, response: aiohttp.ClientResponse) -> Any:
        try:
            return await response.json()
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise self._unreachable(error) from error

    async def _refusal(self, response: aiohttp.ClientResponse) -> WorkerError:
        body = await self._json(response)
        try:
            said = str(body["error"]["message"])
        except (KeyError, TypeError) as error:
            return self._unreachable(error)
        return _BY_STATUS.get(response.status, WorkerError)(said)

    def _unreachable(self, error: Exception) -> NodeUnreachable:
        return NodeUnreachable(
            f"no node answers at {self.url}: {str(error) or type(error).__name__}"
        )


_BY_STATUS: Mapping[int, type[WorkerError]] = {
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.NOT_FOUND: UnknownModel,
    HTTPStatus.CONFLICT: ModelBusy,
    HTTPStatus.UNPROCESSABLE_ENTITY: ConfigError,
}
