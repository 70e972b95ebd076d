"""The client of a running node: requests and commands over the node's HTTP API.

Every command that asks a running node asks through this module; the demo and the benchmark ask the
node that they start themselves, as any client does. An answer becomes a value, and every failure
becomes one error. [front]
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import aiohttp

from mlx_worker.cli.client.address import url_of
from mlx_worker.cli.client.failures import (
    NO_NODE,
    cause_in_words,
    refusal,
    unreachable,
)
from mlx_worker.config.schema import KEY_VARIABLE
from mlx_worker.errors import NodeUnreachable, WorkerError, error_class
from mlx_worker.security.api_keys import first_key
from mlx_worker.security.tls import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from mlx_worker.config.schema import ServerConfig

DEFAULT_TIMEOUT = aiohttp.ClientTimeout(total=30)
"""Timeout of reports and commands, which a node answers at once."""

UNLIMITED_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30)
"""Timeout of streams and of requests that wait for a model."""


@dataclass(frozen=True)
class NodeClient:
    """A running node: its base URL, the key to send, and the certificate that identifies it.

    `key_source` says where the key comes from; None: there is no key. Without a certificate, the
    system's authorities are trusted. `advice` says what to do where no node answers. Every method
    raises NodeUnreachable, Unauthorized, UnknownModel, or another error of the node as a
    WorkerError.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    key_source: str | None = None
    certificate: Path | None = None
    advice: str = ""

    @classmethod
    def at(cls, url: str, *, advice: str = "") -> NodeClient:
        """Return the node at this base URL, with the key of this environment."""
        key = os.environ.get(KEY_VARIABLE) or None
        return cls(url, key, KEY_VARIABLE if key else None, advice=advice)

    @classmethod
    def of(cls, server: ServerConfig, url: str | None = None, *, advice: str = "") -> NodeClient:
        """Return the node of this configuration, with this environment's key, else its first one.

        `url` is where the node is reached; None: at the configuration's address. Raises
        ConfigError for keys that cannot be read.
        """
        key, source = os.environ.get(KEY_VARIABLE) or None, KEY_VARIABLE
        if key is None:
            key = first_key(server)
            source = str(server.api_keys_file or "the environment")
        return cls(
            url or url_of(server), key, source if key else None, server.tls_cert, advice=advice
        )

    async def get(self, path: str, **query: str | None) -> Any:
        """Return the node's answer for this path; parameters that are None are left out."""
        return await self._request("GET", path, query=query)

    async def health(self) -> dict[str, Any]:
        """Return the body of `/health`."""
        body = await self.get("/health")
        if not isinstance(body, dict) or not {"status", "models"} <= body.keys():
            raise NodeUnreachable(f"no node answers at {self.url}: {NO_NODE}")
        return body

    async def models(self) -> list[dict[str, Any]]:
        """Return the names that `/v1/models` lists, each with its model's facts."""
        body = await self.get("/v1/models")
        listed = body.get("data") if isinstance(body, dict) else None
        if not isinstance(listed, list) or not all("root" in entry for entry in listed):
            raise NodeUnreachable(f"no node answers at {self.url}: {NO_NODE}")
        return listed

    async def act(self, model: str, verb: str) -> str:
        """Send `load`, `unload` or `restart` for a model; return the model's id.

        The node has accepted, and may still be at work. Raises ModelBusy too.
        """
        answer = await self._request("POST", f"/admin/models/{quote(model)}/{verb}")
        return str(answer["model"])

    async def reload(self) -> dict[str, list[str]]:
        """Make the node read its configuration again; return the changes that it reports.

        Raises ConfigError too.
        """
        answer: dict[str, list[str]] = await self._request("POST", "/admin/reload")
        return answer

    async def cancel(self, request_id: str) -> None:
        """End a generation request; its client gets an error. Raises RequestNotFound too."""
        await self._request("POST", f"/admin/requests/{quote(request_id, safe='')}/cancel")

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
                    raise _error_in_stream(event["error"])
                yield event
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise NodeUnreachable(
                f"the node at {self.url} broke off: {cause_in_words(error)}"
            ) from error

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
        tls = self._tls()
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

    def _tls(self) -> ssl.SSLContext | bool:
        """Return the TLS context of a request; True: aiohttp's own, should a redirect need one.

        To read the system's authorities takes longer than most requests.
        """
        if self.certificate is None and urlsplit(self.url).scheme != "https":
            return True
        return client_context(self.certificate)

    async def _json(self, response: aiohttp.ClientResponse) -> Any:
        try:
            return await response.json()
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise self._unreachable(error) from error

    async def _refusal(self, response: aiohttp.ClientResponse) -> WorkerError:
        body = await self._json(response)
        known = refusal(response.status, body, self.url, self.key_source)
        return known or NodeUnreachable(f"no node answers at {self.url}: {NO_NODE}")

    def _unreachable(self, error: Exception) -> NodeUnreachable:
        return unreachable(self.url, error, self.advice, self.certificate)


def _error_in_stream(error: Mapping[str, Any]) -> WorkerError:
    return error_class(str(error.get("code")))(error["message"])
