"""The list of nodes as configuration of a router or proxy in front of them.

Every format says three things: which nodes there are, that `/v1/cluster/health` tells which of them
can serve, and that one session stays at one node, where its prompts are in the cache. [front]
"""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlx_worker.config.schema import KEY_VARIABLE
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.cli.client import NodeClient

PORT = 8080
"""Port of the proxy, to be edited."""

LONGEST_ANSWER = 600
"""Seconds without a byte that a proxy has to accept: a node that recovers sends nothing."""


class Router(StrEnum):
    """Programs that read the list."""

    CLUSTER = "cluster"
    JSON = "json"
    NGINX = "nginx"
    HAPROXY = "haproxy"
    LITELLM = "litellm"


async def router_list(nodes: Sequence[NodeClient], router: Router) -> str:
    """Return the list for this program.

    JSON and LiteLLM need the models too, so the nodes are asked for them. Raises InvalidRequest for
    nodes that one proxy cannot serve together, and what `NodeClient` raises.
    """
    match router:
        case Router.NGINX:
            return _nginx(nodes)
        case Router.HAPROXY:
            return _haproxy(nodes)
        case Router.LITELLM:
            return _litellm(nodes, await _models(nodes))
        case Router.CLUSTER:
            return _cluster(nodes)
        case Router.JSON:
            return _json(nodes, await _models(nodes))


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


def _nginx(nodes: Sequence[NodeClient]) -> str:
    servers = "\n".join(
        f"    server {_address(node)} max_fails=1 fail_timeout=10s;" for node in nodes
    )
    return f"""\
map $http_x_session_id $mlx_session {{
    default $http_x_session_id;
    ""      $request_id;
}}
upstream mlx_worker {{
    hash $mlx_session consistent;
{servers}
    keepalive 64;
}}
server {{
    listen {PORT};
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


def _haproxy(nodes: Sequence[NodeClient]) -> str:
    tls = " ssl verify required ca-file @system-ca" if _scheme(nodes) == "https" else ""
    servers = "\n".join(
        f"    server node{i} {_address(node)}{tls} check inter 5s fall 2 rise 1"
        for i, node in enumerate(nodes, 1)
    )
    return f"""\
defaults
    mode http
    timeout connect 5s
    timeout client {LONGEST_ANSWER}s
    timeout server {LONGEST_ANSWER}s
frontend mlx
    bind :{PORT}
    default_backend mlx_worker
backend mlx_worker
    balance hdr(X-Session-Id)
    hash-type consistent
    option httpchk GET /v1/cluster/health
    http-check expect status 200
    option redispatch
    retry-on conn-failure 503
{servers}
"""


def _litellm(nodes: Sequence[NodeClient], models: list[list[str]]) -> str:
    entries = "".join(_litellm_entries(nodes, models))
    return f"""\
model_list:
{entries}\
router_settings:
  routing_strategy: least-busy
  num_retries: 2
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
