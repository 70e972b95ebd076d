"""Pages that may ask from a browser, and pages that may not."""

from pathlib import Path

import pytest

from mlx_worker.api.routes import ROUTES
from mlx_worker.config.load import parse_config
from mlx_worker.errors import ConfigError
from tests.server.asking import ask
from tests.server.conftest import BEARER, Serving

PAGE = "https://app.example"
OTHER = "https://other.example"
ALLOW = "Access-Control-Allow-Origin"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
CHAT = {"messages": [{"role": "user", "content": "one two"}]}


async def test_without_origins_no_page_is_let_in(serving: Serving) -> None:
    url = await serving()
    answer = await ask(url, "/v1/models", headers={"Origin": PAGE})
    assert answer.status == 200
    preflight = await ask(url, "/v1/models", method="OPTIONS", headers={"Origin": PAGE} | PREFLIGHT)
    assert preflight.status == 405
    for response in (answer, preflight):
        assert not [name for name in response.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/nothing"])
async def test_a_preflight_is_answered_without_a_key(
    serving: Serving, keys: Path, path: str
) -> None:
    url = await serving(cors_origins=(PAGE, OTHER), api_keys_file=keys)
    answer = await ask(url, path, method="OPTIONS", headers={"Origin": PAGE} | PREFLIGHT)
    assert answer.status == 204
    assert answer.headers[ALLOW] == PAGE
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert answer.headers["Vary"] == "Origin"


async def test_a_preflight_allows_every_method_of_the_routes(serving: Serving) -> None:
    url = await serving(cors_origins=(PAGE,))
    answer = await ask(
        url, "/admin/logs/level", method="OPTIONS", headers={"Origin": PAGE} | PREFLIGHT
    )
    allowed = answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert {route.method for route in ROUTES} <= set(allowed)


async def test_another_page_is_not_let_in(serving: Serving, keys: Path) -> None:
    url = await serving(cors_origins=(PAGE,), api_keys_file=keys)
    preflight = await ask(
        url, "/v1/models", method="OPTIONS", headers={"Origin": OTHER} | PREFLIGHT
    )
    assert preflight.status == 401
    answer = await ask(url, "/v1/models", headers={"Origin": OTHER} | BEARER)
    assert ALLOW not in preflight.headers
    assert ALLOW not in answer.headers


@pytest.mark.parametrize(
    ("path", "body", "status", "headers"),
    [
        pytest.param("/v1/models", None, 200, BEARER, id="whole"),
        pytest.param("/v1/chat/completions", CHAT | {"stream": True}, 200, BEARER, id="stream"),
        pytest.param("/v1/chat/completions", {}, 422, BEARER, id="refused"),
        pytest.param("/v1/nothing", None, 404, BEARER, id="no such path"),
        pytest.param("/v1/models", None, 401, {}, id="no key"),
    ],
)
async def test_every_answer_can_be_read_by_the_page(
    serving: Serving,
    keys: Path,
    path: str,
    body: object,
    status: int,
    headers: dict[str, str],
) -> None:
    url = await serving(cors_origins=(PAGE,), api_keys_file=keys)
    answer = await ask(url, path, body, headers={"Origin": PAGE} | headers)
    assert answer.status == status
    assert answer.headers[ALLOW] == PAGE
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert all(header in exposed for header in ("X-Request-Id", "X-Cache-Hit", "Retry-After"))


async def test_any_page_may_be_let_in_and_never_with_credentials(serving: Serving) -> None:
    url = await serving(cors_origins=("*",))
    for method, more in (("GET", {}), ("OPTIONS", PREFLIGHT)):
        answer = await ask(url, "/v1/models", method=method, headers={"Origin": PAGE} | more)
        assert answer.headers[ALLOW] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origins",
    [
        '["app.example"]',
        '["https://app.example/"]',
        '["https://*.example"]',
        '["*", "https://a.b"]',
    ],
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    text = f'[server]\ncors_origins = {origins}\n[[models]]\nid = "a"\npath = "p"\n'
    with pytest.raises(ConfigError, match=r"node.toml:2: server.cors_origins"):
        parse_config(text, source="node.toml", folder=Path())
