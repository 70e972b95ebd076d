"""What a browser says of a request decides who may ask; programs say nothing, and may."""

import pytest
from msgspec.structs import replace

from mlx_worker.config.schema import ServerConfig
from tests.front.asking import Front, Serve, asked

RESTART = "/admin/models/m/restart"
EVIL = "http://evil.test"


async def status(front: Front, path: str, method: str = "POST", **headers: str) -> int:
    body = asked("one two") if path.endswith("completions") else None
    return (await front.ask(path, body, method=method, **headers)).status


@pytest.mark.parametrize("path", [RESTART, "/v1/v1" + RESTART, "/v1/chat/completions", "/cache"])
async def test_another_sites_page_changes_nothing(serve: Serve, path: str) -> None:
    front = await serve()
    method = "DELETE" if path == "/cache" else "POST"
    pid = (await front.model())["pid"]
    for headers in (
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": "http://127.0.0.1:1"},
    ):
        answer = await front.ask(path, asked("one"), method=method, **headers)
        assert (answer.status, answer.error["code"]) == (403, "cross_site")
    assert (await front.model())["pid"] == pid


async def test_the_nodes_own_page_and_programs_may(serve: Serve) -> None:
    front = await serve()
    own = str(front.client.make_url("")).rstrip("/")
    assert await status(front, RESTART, Origin=own, Sec_Fetch_Site="same-origin") == 202
    assert await status(front, RESTART, Origin=own) == 202
    assert await status(front, RESTART, Sec_Fetch_Site="none") == 202
    assert await status(front, RESTART) == 202


async def test_reading_from_a_link_on_another_site_is_reading(serve: Serve) -> None:
    front = await serve()
    for path in ("/", "/health", "/admin/events"):
        assert await status(front, path, "GET", Sec_Fetch_Site="cross-site") == 200


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8081", "localhost", "LOCALHOST.:8081", "a.localhost:1", "[::1]:8081", "10.0.0.7"],
)
async def test_addresses_and_this_machines_names_are_known(serve: Serve, host: str) -> None:
    front = await serve()
    for path in ("/", "/admin/events"):
        assert await status(front, path, "GET", Host=host) == 200


async def test_a_name_that_was_bound_anew_is_not(serve: Serve) -> None:
    front = await serve()
    for path in ("/", "/page/main.js", "/admin/events", "/v1/admin/logs"):
        answer = await front.ask(path, Host="evil.test:8081")
        assert (answer.status, answer.error["code"]) == (421, "unknown_host")
    same = {"Host": "evil.test:8081", "Origin": "http://evil.test:8081"}
    assert await status(front, RESTART, **same) == 421
    assert await status(front, "/v1/chat/completions", **same) == 421
    assert await status(front, "/health", "GET", Host="evil.test", Sec_Fetch_Site="none") == 421


async def test_programs_may_call_a_node_by_any_name(serve: Serve) -> None:
    front = await serve()
    for path in ("/health", "/v1/models", "/v1/cluster/health", "/metrics"):
        assert await status(front, path, "GET", Host="studio.lan:8081") == 200
    assert await status(front, "/v1/chat/completions", Host="studio.lan:8081") == 200


async def test_names_in_the_configuration_are_known(serve: Serve) -> None:
    front = await serve(server=replace(ServerConfig(), host_names=("Studio.lan",)))
    assert await status(front, "/", "GET", Host="studio.lan:8081") == 200
    assert await status(front, "/", "GET", Host="other.lan:8081") == 421


async def test_origins_in_the_configuration_may(serve: Serve) -> None:
    front = await serve(server=replace(ServerConfig(), cors_origins=("https://ui.test",)))
    named = {"Origin": "https://ui.test", "Sec_Fetch_Site": "cross-site"}
    assert await status(front, "/v1/chat/completions", **named) == 200
    assert await status(front, RESTART, **named) == 202
    other = {"Origin": "https://other.test", "Sec_Fetch_Site": "cross-site"}
    assert await status(front, "/v1/chat/completions", **other) == 403


async def test_any_origin_may_ask_models_and_none_may_operate(serve: Serve) -> None:
    front = await serve(server=replace(ServerConfig(), cors_origins=("*",)))
    foreign = {"Origin": EVIL, "Sec_Fetch_Site": "cross-site"}
    assert await status(front, "/v1/chat/completions", **foreign) == 200
    assert await status(front, RESTART, **foreign) == 403
