"""A front to ask over HTTP: started with scripted children, its answers read to their end."""

import hashlib
import io
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dashboard.history import HISTORY, MetricsHistory
from mlx_worker.config.schema import (
    CacheConfig,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
from mlx_worker.supervisor.process.lifecycle import Timings
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
from tests.front.documented import check_error
from tests.sse import data_of
from tests.supervisor_harness import eventually, soon

LARGE = 1 << 20
"""Bytes that aiohttp's client wants as a file."""

PROMPT = "be kind and brief"
DIGEST = hashlib.sha256(PROMPT.encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The stream's events: parsed, but for `[DONE]`."""
        return data_of(self.body)

    @property
    def text(self) -> str:
        """What was said, streamed or not."""
        if self.headers["Content-Type"].startswith("application/json"):
            return str(self.json["choices"][0]["message"]["content"])
        deltas = [
            event["choices"][0]["delta"].get("content", "")
            for event in self.events
            if event != "[DONE]" and event.get("choices")
        ]
        return "".join(deltas)

    @property
    def error(self) -> dict[str, Any]:
        """The body that OpenAI's libraries read, and nothing else."""
        assert set(self.json) == {"error"}
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return error


class Front:
    """A running front and its one client."""

    def __init__(self, client: TestClient[web.Request, web.Application]) -> None:
        self.client = client

    @property
    def node(self) -> Node:
        return self.client.server.app[CONTEXT].node  # type: ignore[attr-defined,no-any-return]

    @property
    def url(self) -> str:
        return str(self.client.make_url("")).rstrip("/")

    @property
    def history(self) -> MetricsHistory:
        return self.client.server.app[HISTORY]  # type: ignore[attr-defined,no-any-return]

    async def ask(
        self, path: str, body: Any = None, *, method: str | None = None, **headers: str
    ) -> Answer:
        """One request. `body` is sent as JSON unless it is bytes; `x_y` names header `x-y`."""
        response = await soon(self.open(path, body, method=method, **headers))
        answer = await soon(response.read())
        check_error(response.method, path, response.status, answer)
        return Answer(response.status, response.headers, answer)

    def open(
        self, path: str, body: Any = None, *, method: str | None = None, **headers: str
    ) -> Awaitable[ClientResponse]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        verb = method or ("GET" if data is None else "POST")
        if data is not None and len(data) > LARGE:
            named.setdefault("Content-Length", str(len(data)))
            return self.client.request(verb, path, data=io.BytesIO(data), headers=named)
        return self.client.request(verb, path, data=data, headers=named)

    async def chat(self, text: str, **fields: Any) -> Answer:
        return await self.ask("/v1/chat/completions", asked(text, **fields))

    async def model(self, name: str = "m") -> dict[str, Any]:
        entry: dict[str, Any] = (await self.ask("/health")).json["models"][name]
        return entry

    async def knows_folders(self) -> bool:
        """True once every model's folder was looked at, or found to be unusable."""
        return all(
            served.planned.folder is not None or served.child.state is State.FAILED
            for served in self.node.models.values()
        )

    async def serves_preloaded(self) -> bool:
        """True once every model that is loaded at the start is ready; asks without a key."""
        return all(
            served.child.state is State.READY
            for served in self.node.models.values()
            if served.planned.config.preload
        )

    async def reaches(self, name: str = "m", **facts: Any) -> None:
        """Wait until /health says these things of a model."""

        async def so() -> bool:
            entry = await self.model(name)
            return all(entry[key] == value for key, value in facts.items())

        await eventually(so)


def asked(text: str, *, system: str | None = None, **fields: Any) -> dict[str, Any]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*head, {"role": "user", "content": text}]} | fields


class Serve(Protocol):
    """Start a front whose children have these flags, and wait until they serve."""

    async def __call__(
        self,
        *flags: str | Path,
        models: tuple[ModelConfig, ...] = ...,
        server: ServerConfig = ...,
        supervisor: SupervisorConfig = ...,
        telemetry: TelemetryConfig = ...,
        cache: CacheConfig = ...,
        timings: Timings = ...,
        policy: RestartPolicy = ...,
        resume: ResumePolicy = ...,
        standby: StandbyPolicy = ...,
        wait: bool = True,
    ) -> Front: ...


class StandIn(Protocol):
    """Start what answers these routes in place of a node; its URL."""

    async def __call__(self, *routes: web.RouteDef) -> str: ...


def model(model_id: str = "m", **settings: Any) -> ModelConfig:
    return ModelConfig(id=model_id, path="nano", **settings)
