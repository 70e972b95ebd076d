"""The list of nodes as configuration of a router or proxy in front of them.

Every format says three things: which nodes there are, that their health tells which of them can
serve, and that one session stays at one node, where its prompts are in the cache. HAProxy asks
`/health/ready`, which needs no key: clients' own keys pass through HAProxy. A router without a file
of settings gets the command that starts the router. [front]
"""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mlx_worker.api.middleware.session_headers import SESSION_HEADERS
from mlx_worker.config.schema import KEY_VARIABLE
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.cli.client import NodeClient

LONGEST_ANSWER: Final = 600
"""Seconds without a byte that a proxy has to accept: a node that recovers sends nothing."""

CHECK_EVERY: Final = 5
"""Seconds between two checks of a node's health."""

CHECKS_FAILED: Final = 2
"""Failed checks in a row after which a node gets no requests: a crash of a model is not noticed."""

ROUTED_BY: Final = (
    "X-Session-Id",
    *(header for header in SESSION_HEADERS if "_" not in header),
)
"""Headers that name a session, the first one that is given counts. Nginx drops underscores."""


class Router(StrEnum):
    """Programs that read the list."""

    CLUSTER = "cluster"
    JSON = "json"
    NGINX = "nginx"
    HAPROXY = "haproxy"
    LITELLM = "litellm"
    VLLM_ROUTER = "vllm-router"
    SGLANG_ROUTER = "sglang-router"
    SMG = "smg"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the router listens; `host` "": at all addresses."""

    host: str
    port: int

    @classmethod
    def read(cls, text: str) -> Listen:
        """Return what `[HOST:]PORT` names. Raises ValueError."""
        host, _, port = text.rpartition(":")
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"{text!r} is no PORT or HOST:PORT")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        """Return HOST:PORT, with an IPv6 address in brackets; PORT alone for all addresses."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if host else str(self.port)


async def router_list(nodes: Sequence[NodeClient], router: Router, listen: Listen) -> str:
    """Return the list for this program.

    JSON and LiteLLM need the models too, so the nodes are asked for them. Raises InvalidRequest for
    nodes that one proxy cannot serve together, and what `NodeClient` raises.
    """
    match router:
        case Router.CLUSTER:
            return _cluster(nodes)
        case Router.JSON:
            return _json(nodes, await _models(nodes))
        case Router.LITELLM:
            return _litellm(nodes, await _models(nodes), listen)
        case _:
            return _WITHOUT_MODELS[router](nodes, listen)


async def _models(nodes: Sequence[NodeClient]) -> list[list[str]]:
    """Return the model names of each node."""
    answers = await asyncio.gather(*(node.get("/v1/models") for node in nodes))
    return [[item["id"] for item in answer["data"]] for answer in answers]


def _json(nodes: Sequence[NodeClient], models: list[list[str]]) -> str:
    listed = [
        {"id": _address(node), "url": node.url, "models": names}
        for node, names in zip(nodes, models, strict=True)
    ]
    return json.dumps({"nodes": listed}, indent=2) + "\n"


def _cluster(nodes: Sequence[NodeClient]) -> str:
    """Return the file of the router that polls `/v1/models` and the cluster paths of each node.

    Keys that are not named keep the router's defaults. `cache-aware` lets it route by resident
    prompts.
    """
    listed = [{"id": _address(node), "url": node.url} for node in nodes]
    file = {
        "discovery": {"mode": "static", "nodes": listed},
        "routing": {"strategy": "cache-aware"},
    }
    return json.dumps(file, indent=2) + "\n"


def _nginx(nodes: Sequence[NodeClient], listen: Listen) -> str:
    servers = "\n".join(
        f"    server {_address(node)} max_fails=1 fail_timeout=10s;" for node in nodes
    )
    given = "".join(f"$http_{header.lower().replace('-', '_')}" for header in ROUTED_BY)
    return f"""\
map "{given}" $mlx_session {{
    ""      $request_id;
    default "{given}";
}}
upstream mlx_worker {{
    hash $mlx_session consistent;
{servers}
    keepalive 64;
}}
server {{
    listen {listen};
    client_max_body_size 16m;
    location / {{
        proxy_pass {_scheme(nodes)}://mlx_worker;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_buffering off;
        proxy_read_timeout {LONGEST_ANSWER}s;
        proxy_next_upstream error timeout http_503 non_idempotent;
    }}
}}
"""


def _haproxy(nodes: Sequence[NodeClient], listen: Listen) -> str:
    tls = " ssl verify required ca-file @system-ca" if _scheme(nodes) == "https" else ""
    servers = "\n".join(
        f"    server node{i} {_address(node)}{tls}"
        f" check inter {CHECK_EVERY}s fall {CHECKS_FAILED} rise 1"
        for i, node in enumerate(nodes, 1)
    )
    sessions = "\n".join(
        f"    http-request set-var(txn.session) req.hdr({header})"
        " unless { var(txn.session) -m found }"
        for header in ROUTED_BY
    )
    return f"""\
defaults
    mode http
    timeout connect 5s
    timeout client {LONGEST_ANSWER}s
    timeout server {LONGEST_ANSWER}s
frontend mlx
    bind {listen if listen.host else f":{listen.port}"}
    default_backend mlx_worker
backend mlx_worker
{sessions}
    balance hash var(txn.session)
    hash-type consistent
    option httpchk GET /health/ready
    http-check expect status 200
    option redispatch 1
    retries {2 * len(nodes)}
    retry-on conn-failure empty-response 503
{servers}
"""


def _litellm(nodes: Sequence[NodeClient], models: list[list[str]], listen: Listen) -> str:
    """Return LiteLLM's file. Headers of clients are passed on: those of sessions are among them."""
    entries = "".join(_litellm_entries(nodes, models))
    host = f" --host {listen.host}" if listen.host else ""
    return f"""\
# litellm --config FILE{host} --port {listen.port}
model_list:
{entries}\
router_settings:
  routing_strategy: simple-shuffle
  optional_pre_call_checks: ["session_affinity"]
  num_retries: {4 * len(nodes)}
  allowed_fails: 0
  cooldown_time: 5
litellm_settings:
  request_timeout: {LONGEST_ANSWER}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  forward_client_headers_to_llm_api: true
"""


def _litellm_entries(nodes: Sequence[NodeClient], models: list[list[str]]) -> Iterator[str]:
    for node, names in zip(nodes, models, strict=True):
        for name in names:
            yield (
                f"  - model_name: {json.dumps(name)}\n"
                "    litellm_params:\n"
                f"      model: {json.dumps(f'openai/{name}')}\n"
                f"      api_base: {json.dumps(f'{node.url}/v1')}\n"
                f"      api_key: os.environ/{KEY_VARIABLE}\n"
            )


def _vllm_router(nodes: Sequence[NodeClient], listen: Listen) -> str:
    """Return the command of vllm-router, which reads the session of `X-Session-Id`."""
    return _command(
        "vllm-router",
        *_listening(listen),
        "--policy consistent_hash",
        *_checking(nodes),
    )


def _sglang_router(nodes: Sequence[NodeClient], listen: Listen) -> str:
    """Return the command of sglang-router, which finds a session by the start of its text."""
    return _command(
        "python -m sglang_router.launch_router",
        *_listening(listen),
        "--prometheus-host 127.0.0.1",
        "--policy cache_aware",
        # Sessions with one system prompt look alike. Without this they all stay at one node until
        # that node has 64 requests more than the others.
        "--balance-abs-threshold 8",
        *_checking(nodes),
    )


def _smg(nodes: Sequence[NodeClient], listen: Listen) -> str:
    """Return the command of smg, which finds a session by a header, or by the text's start."""
    return _command(
        "smg launch",
        *_listening(listen),
        "--prometheus-host 127.0.0.1",
        "--policy cache_aware",
        "--routing-key-override",
        "--assignment-mode min_group",
        f"--routing-key-headers {' '.join(ROUTED_BY)}",
        *_checking(nodes),
    )


def _listening(listen: Listen) -> tuple[str, str]:
    return f"--host {listen.host or '0.0.0.0'}", f"--port {listen.port}"  # noqa: S104 - as asked


def _checking(nodes: Sequence[NodeClient]) -> tuple[str, ...]:
    """Return the options that the three routers share, each its own line."""
    return (
        f"--worker-urls {shlex.join(node.url for node in nodes)}",
        "--worker-startup-check-interval 1",
        "--health-check-endpoint /v1/cluster/health",
        f"--health-check-interval-secs {CHECK_EVERY}",
        f"--health-failure-threshold {CHECKS_FAILED}",
        "--health-success-threshold 1",
        # These routers try a node again until its circuit opens. So a refused request reaches the
        # other node with its third try, and a request that fails everywhere takes out one node.
        "--retry-max-retries 3",
        "--cb-failure-threshold 2",
        "--cb-timeout-duration-secs 10",
        f"--request-timeout-secs {LONGEST_ANSWER}",
    )


def _command(program: str, *options: str) -> str:
    """Return a script of one command, with each option in its own line."""
    return "#!/bin/sh\n" + " \\\n  ".join((f"exec {program}", *options)) + "\n"


_WITHOUT_MODELS: Final = {
    Router.NGINX: _nginx,
    Router.HAPROXY: _haproxy,
    Router.VLLM_ROUTER: _vllm_router,
    Router.SGLANG_ROUTER: _sglang_router,
    Router.SMG: _smg,
}


def _address(node: NodeClient) -> str:
    parts = urlsplit(node.url)
    assert parts.hostname, "the URL of a node has a host"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _scheme(nodes: Sequence[NodeClient]) -> str:
    schemes = {urlsplit(node.url).scheme for node in nodes}
    if len(schemes) > 1:
        raise InvalidRequest("some nodes are http and some https: one proxy needs one of them")
    return schemes.pop()
