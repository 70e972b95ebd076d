"""A router of a cluster, as the contract of a node has it, that checks every answer it reads.

The router is in the test's process. Its configuration is what `mlx-worker router-config --for
cluster` prints. It polls `/v1/models`, `/v1/cluster/health` and `/v1/cluster/cache` of each node,
warms a system prompt at its start, and sends conversations as `/responses` and as
`/chat/completions` in turn. Where a request goes depends on what the node's answers have said: the
node that had the session, a node that reports the system prompt, a node that has the model in
memory, the node with the fewest requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from tests.processes import Answer
from tests.routers import contract
from tests.routers.agents import ANSWER_TOKENS, Broken, Turn
from tests.sse import events_from

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from tests.sse import Event

POLL_LIMIT: Final = 5.0
"""Seconds after which a router gives up a poll or hangs up on a warm-up."""

CHAT_LIMIT: Final = 600.0
"""Seconds that a router gives an answer."""

KEY: Final = {"Authorization": "Bearer none"}
"""What OpenAI's libraries send where no key is configured."""

TRANSPORT_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(eq=False)
class KnownNode:
    """What the router knows of a node: the last answers of the node, and its own requests there."""

    url: str
    models: Sequence[str] = ()
    can_serve: bool = False
    health: contract.NodeHealth | None = None
    cache: contract.NodeCache | None = None
    asking: int = 0

    def reports(self, digest: str) -> bool:
        """True if the prompt that the node has used last is this one."""
        return self.cache is not None and self.cache.system_prompt_hash == digest

    def has_loaded(self, model: str) -> bool:
        """True if the model is in memory and serves."""
        return self.health is not None and self.health.models[model].state == "ready"

    @property
    def load(self) -> int:
        """Requests in flight: those that the node has reported, or more of the router's own."""
        reported = self.health.metrics.requests_in_flight if self.health is not None else 0
        return max(reported, self.asking)


@dataclass
class ClusterRouter:
    """Polls nodes, and sends each turn of a conversation to one of them."""

    nodes: Sequence[KnownNode]
    client: aiohttp.ClientSession
    model: str
    checked: Counter[str] = field(default_factory=Counter)
    """Answers that kept to the contract, by what they were."""
    _sessions: dict[str, KnownNode] = field(default_factory=dict)
    _turns: itertools.count[int] = field(default_factory=itertools.count)

    # --- polls ---

    @contextlib.asynccontextmanager
    async def following(self, every: float, prompts: Sequence[str]) -> AsyncIterator[None]:
        """Warm system prompts at all nodes, and poll all nodes meanwhile.

        Raises BrokenContract as a group when the context ends, or at once.
        """
        await self.poll()
        for prompt in prompts:
            await asyncio.gather(*(self._warm(node, prompt) for node in self.nodes))
        await self.poll()
        async with asyncio.TaskGroup() as group:
            polling = group.create_task(self._poll_on(every))
            yield
            polling.cancel()

    async def _poll_on(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            await self.poll()

    async def poll(self) -> None:
        """Ask each node once for its models, health and cache. Raises BrokenContract."""
        await asyncio.gather(*map(self._poll, self.nodes))

    async def _poll(self, node: KnownNode) -> None:
        try:
            models = contract.models_of(await self._ask(node, "/v1/models"))
            health = await self._ask(node, "/v1/cluster/health")
            cache = contract.cache_of(await self._ask(node, "/v1/cluster/cache"))
        except TRANSPORT_ERRORS:
            node.can_serve = False
            return
        node.models = models or node.models
        node.health, node.cache = contract.health_of(health), cache
        node.can_serve = models is not None and health.status == 200
        self.checked.update(("models", "health", "cache"))

    async def _warm(self, node: KnownNode, prompt: str) -> None:
        """Warm a prompt; a node that takes longer than a router waits goes on by itself."""
        with contextlib.suppress(TimeoutError):
            answer = await self._ask(node, "/v1/cluster/cache/warm", {"systemPrompt": prompt})
            if contract.warmed_of(answer, prompt):
                self.checked["warm"] += 1

    async def _ask(self, node: KnownNode, path: str, body: Any = None) -> Answer:
        method = "GET" if body is None else "POST"
        limit = aiohttp.ClientTimeout(total=POLL_LIMIT)
        async with self.client.request(
            method, node.url + path, json=body, headers=KEY, timeout=limit
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    # --- requests ---

    def choose(self, session: str, system: str, tried: Sequence[KnownNode] = ()) -> KnownNode:
        """Return the node for a turn. Raises Broken."""
        digest = contract.digest_of(system)
        able = [
            node
            for node in self.nodes
            if node.can_serve and self.model in node.models and node not in tried
        ]
        if not able:
            raise Broken(f"no node can serve; tried: {[node.url for node in tried]}")
        return min(
            able,
            key=lambda node: (
                node is not self._sessions.get(session),
                not node.reports(digest),
                not node.has_loaded(self.model),
                node.load,
            ),
        )

    async def ask(self, messages: Sequence[Mapping[str, str]], session: str) -> Turn:
        """Stream one turn from the node of choice; another one gets what a node does not begin.

        Raises Broken for a stream that a node began and did not end, BrokenContract for anything
        that a living node must not say.
        """
        tried: list[KnownNode] = []
        is_response = next(self._turns) % 2 == 0
        while True:
            node = self.choose(session, messages[0]["content"], tried)
            node.asking += 1
            try:
                turn = await self._turn(node, messages, session, is_response=is_response)
            finally:
                node.asking -= 1
            if turn is not None:
                self._sessions[session] = node
                return turn
            tried.append(node)

    async def _turn(
        self,
        node: KnownNode,
        messages: Sequence[Mapping[str, str]],
        session: str,
        *,
        is_response: bool,
    ) -> Turn | None:
        """Return the whole answer; None if the node did not begin one."""
        path, body = ("/responses", as_response) if is_response else ("/chat/completions", as_chat)
        headers = KEY | {"X-Session-Id": session}
        async with contextlib.AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(
                    self.client.post(
                        node.url + path,
                        json=body(self.model, messages),
                        headers=headers,
                        timeout=aiohttp.ClientTimeout(total=CHAT_LIMIT),
                    )
                )
            except TRANSPORT_ERRORS:
                node.can_serve = False
                return None
            if response.status != 200:
                contract.refusal(Answer(response.status, response.headers, await response.read()))
                self.checked["refusal"] += 1
                return None
            contract.check_headers(response.headers, session)
            events = await _read(response)
        said = contract.response_of(events) if is_response else contract.chat_of(events, self.model)
        self.checked[path] += 1
        return Turn(said.text, said.finish, said.usage, dict(response.headers))


async def _read(response: aiohttp.ClientResponse) -> list[Event]:
    """Return the events of a stream. Raises Broken if the node is gone before their end."""
    try:
        return [event async for event in events_from(response.content)]
    except TRANSPORT_ERRORS as error:
        raise Broken(f"{type(error).__name__}: {error}") from error


def as_chat(model: str, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the body of a turn for `/chat/completions`."""
    return {
        "model": model,
        "messages": messages,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def as_response(model: str, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the body of a turn for `/responses`."""
    kinds = {"user": "input_text", "assistant": "output_text"}
    items = [
        {"role": message["role"], "content": [{"type": kind, "text": message["content"]}]}
        if (kind := kinds.get(message["role"]))
        else message
        for message in messages
    ]
    return {
        "model": model,
        "input": items,
        "max_output_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
    }


def known_nodes(file: str) -> list[KnownNode]:
    """Return the nodes of a configuration; every second one has the other form of a base URL."""
    listed = json.loads(file)["discovery"]["nodes"]
    return [KnownNode(node["url"] + "/v1" * (at % 2)) for at, node in enumerate(listed)]
