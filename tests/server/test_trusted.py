"""Addresses that need no key: what they may request, and what needs a key from everywhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mlx_worker.api.routes import ROUTES
from mlx_worker.config.addresses import Networks, read_network
from mlx_worker.config.load import parse_config
from mlx_worker.config.schema import KEYS_VARIABLE, ServerConfig
from mlx_worker.errors import ConfigError
from mlx_worker.security.credentials import Credentials
from tests.front.asking import Answer
from tests.server.asking import ask
from tests.server.conftest import BEARER, Serving

TRUSTED = "127.0.0.2"
OTHER = "127.0.0.1"
CHAT = {"messages": [{"role": "user", "content": "one two"}]}
ROUTER_KEY = {"Authorization": "Bearer lm-studio"}
"""What a cluster's router sends: nine characters, which no key of a node could have."""

FREE = {
    ("POST", "chat/completions"): CHAT,
    ("POST", "completions"): {"prompt": "one two"},
    ("POST", "responses"): {"input": "one two"},
    ("POST", "messages"): CHAT | {"max_tokens": 9},
    ("POST", "messages/count_tokens"): CHAT,
    ("POST", "tokenize"): {"prompt": "one two"},
    ("POST", "detokenize"): {"tokens": [1]},
    ("GET", "models"): None,
    ("GET", "models/m"): None,
    ("GET", "health"): None,
    ("GET", "version"): None,
    ("GET", "cluster/health"): None,
    ("GET", "cache"): None,
    ("GET", "cluster/cache"): None,
    ("POST", "cache/warm"): {"system_prompt": "be kind"},
    ("POST", "cluster/cache/warm"): {"systemPrompt": "be kind"},
}
"""What an address in `trusted` needs no key for."""
OPEN = {"health/live", "health/ready"}


@pytest.mark.parametrize("headers", [{}, ROUTER_KEY, {"x-api-key": "wrong"}])
async def test_the_cluster_contract_holds_from_a_trusted_address_alone(
    serving: Serving, keys: Path, headers: Mapping[str, str]
) -> None:
    url = await serving(api_keys_file=keys, trusted=(TRUSTED,))

    async def from_(source: str, path: str, body: Any = None) -> Answer:
        return await ask(url, path, body, headers=headers, source=source)

    assert [entry["id"] for entry in (await from_(TRUSTED, "/v1/models")).json["data"]] == ["m"]
    assert (await from_(TRUSTED, "/v1/cluster/health")).status == 200
    cache = (await from_(TRUSTED, "/v1/cluster/cache")).json
    assert {"systemPromptHash", "tokens", "hitRate"} <= cache.keys()
    warmed = await from_(TRUSTED, "/v1/cluster/cache/warm", {"systemPrompt": "be kind"})
    assert {"systemPromptHash", "tokens"} <= warmed.json.keys()
    asked = {"input": "one two", "stream": True}
    assert b"response.completed" in (await from_(TRUSTED, "/v1/responses", asked)).body
    said = (await from_(TRUSTED, "/v1/v1/chat/completions", CHAT)).json
    assert said["choices"][0]["message"]["content"] == "one two"

    for (method, path), body in FREE.items():
        answer = await ask(url, f"/v1/{path}", body, method=method, headers=headers, source=OTHER)
        assert answer.status == 401, path


async def test_every_endpoint_that_is_not_named_asks_a_trusted_address_for_a_key(
    serving: Serving, keys: Path
) -> None:
    url = await serving(api_keys_file=keys, trusted=("127.0.0.0/8",))
    for route in ROUTES:
        where = route.path.replace("{id:.+}", "m")
        free = (route.method, where) in FREE or where in OPEN
        body = FREE.get((route.method, where))
        for prefix in ("/", "/v1/v1/"):
            answer = await ask(url, prefix + where, body, method=route.method)
            assert answer.status == (200 if free else 401), (route.method, where)
    for nothing in ("/nothing", "/v1/health/x", "/admin/../health", "/health%2f..%2fadmin"):
        assert (await ask(url, nothing)).status == 401, nothing


@pytest.mark.parametrize(
    "name",
    [
        *("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "True-Client-IP"),
        *("CF-Connecting-IP", "X-Forwarded-Host", "Host", "Via"),
    ],
)
async def test_no_header_makes_an_address_trusted(serving: Serving, keys: Path, name: str) -> None:
    url = await serving(api_keys_file=keys, trusted=(TRUSTED,))
    value = f"for={TRUSTED}" if name == "Forwarded" else TRUSTED
    answer = await ask(url, "/v1/chat/completions", CHAT, headers={name: value}, source=OTHER)
    assert answer.status == 401
    assert (await ask(url, "/v1/models", headers={name: value}, source=OTHER)).status == 401


async def test_trusted_key_from_any_address_is_accepted_and_logged(
    serving: Serving, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    url = await serving(api_keys_file=keys, trusted=(TRUSTED,))
    for source in (OTHER, TRUSTED):
        answer = await ask(url, "/v1/chat/completions", CHAT, headers=BEARER, source=source)
        assert answer.status == 200
        assert (await ask(url, "/metrics", headers=BEARER, source=source)).status == 200
    await ask(url, "/v1/chat/completions", CHAT, source=TRUSTED)
    lines = [line for line in caplog.messages if "/chat/completions" in line]
    assert [" key=alice " in line for line in lines] == [True, True, False]


async def test_without_keys_only_trusted_addresses_may_ask(serving: Serving) -> None:
    url = await serving(trusted=(TRUSTED,))
    assert (await ask(url, "/v1/models", source=TRUSTED)).status == 200
    for source, path in ((OTHER, "/v1/models"), (TRUSTED, "/metrics"), (OTHER, "/metrics")):
        answer = await ask(url, path, source=source)
        assert answer.status == 401
        assert "server.trusted" in answer.json["error"]["message"]
    assert (await ask(url, "/admin/reload", method="POST", source=TRUSTED)).status == 401
    assert (await ask(url, "/health/live", source=OTHER)).status == 200


# --- browsers at a trusted address --------------------------------------------------------


async def test_a_page_gets_nothing_by_its_readers_trusted_address(
    serving: Serving, keys: Path
) -> None:
    url = await serving(api_keys_file=keys, trusted=("127.0.0.0/8",))
    foreign = {"Origin": "http://evil.test", "Sec-Fetch-Site": "cross-site"}
    answer = await ask(url, "/v1/chat/completions", CHAT, headers=foreign)
    assert (answer.status, answer.json["error"]["code"]) == (403, "cross_site")
    assert (await ask(url, "/v1/models", headers=foreign)).status == 401
    # A name that a stranger's DNS server points here makes the page one of the node's own origin.
    same = {"Host": "evil.test:8081", "Origin": "http://evil.test:8081"}
    answer = await ask(url, "/v1/chat/completions", CHAT, headers=same)
    assert (answer.status, answer.json["error"]["code"]) == (421, "unknown_host")
    keyed = await ask(url, "/v1/chat/completions", CHAT, headers=same | BEARER)
    assert keyed.status == 200


async def test_any_origin_is_none_that_gets_in_by_address(serving: Serving, keys: Path) -> None:
    url = await serving(api_keys_file=keys, trusted=("127.0.0.0/8",), cors_origins=("*",))
    foreign = {"Origin": "http://evil.test", "Sec-Fetch-Site": "cross-site"}
    assert (await ask(url, "/v1/chat/completions", CHAT, headers=foreign)).status == 401
    assert (await ask(url, "/v1/chat/completions", CHAT, headers=foreign | BEARER)).status == 200


async def test_a_named_origin_gets_in_by_its_readers_address(serving: Serving, keys: Path) -> None:
    origin = "https://ui.test"
    url = await serving(api_keys_file=keys, trusted=("127.0.0.0/8",), cors_origins=(origin,))
    named = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    assert (await ask(url, "/v1/chat/completions", CHAT, headers=named)).status == 200
    assert (await ask(url, "/metrics", headers=named)).status == 401


# --- which addresses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/24", ["10.0.0.0", "10.0.0.255", "::ffff:10.0.0.7"], ["10.0.1.0", "::a00:7"]),
        ("10.0.0.5", ["10.0.0.5", "::ffff:10.0.0.5"], ["10.0.0.6", "10.0.0.50", "110.0.0.5"]),
        ("fd00::/8", ["fd00::1", "fdff::9"], ["fe80::1", "10.0.0.1"]),
        ("fe80::/10", ["fe80::1", "fe80::1%en0"], ["fd00::1"]),
        ("::1", ["::1"], ["127.0.0.1", "::2", "::ffff:127.0.0.1"]),
        ("::ffff:10.0.0.0/120", ["10.0.0.9", "::ffff:10.0.0.9"], ["10.0.1.9", "::a00:9"]),
        ("0.0.0.0/0", ["8.8.8.8", "::ffff:8.8.8.8"], ["fd00::1"]),
        ("::/0", ["fd00::1"], ["8.8.8.8", "::ffff:8.8.8.8"]),
    ],
)
def test_networks_cover_what_is_in_them_in_either_spelling(
    network: str, inside: list[str], outside: list[str]
) -> None:
    networks = Networks.read([network])
    assert all(map(networks.covers, inside))
    assert not any(map(networks.covers, [*outside, "", "localhost", "/run/a.sock", None]))
    assert not any(map(Networks().covers, inside))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.5/24", "write '10.0.0.0/24', or '10.0.0.5' alone"),
        ("fd00::1/8", "write 'fd00::/8', or 'fd00::1' alone"),
        ("10.0.0.0/33", "neither an IP address nor a network"),
        ("10.0.0", "neither an IP address nor a network"),
        ("router.lan", "neither an IP address nor a network"),
        ("10.0.0.0/24, 10.0.1.0/24", "neither an IP address nor a network"),
        (" ", "neither an IP address nor a network"),
    ],
)
def test_text_that_names_no_network_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^'") as raised:
        read_network(text)
    assert said in str(raised.value)
    with pytest.raises(ConfigError) as caught:
        parse_config(f'[server]\ntrusted = ["::1", {json.dumps(text)}]\n{MODEL}', **HERE)
    assert str(caught.value).startswith("x.toml:2: server.trusted[1]: ")
    assert said in str(caught.value)


MODEL = '[[models]]\nid = "a"\npath = "p"\n'
HERE: dict[str, Any] = {"source": "x.toml", "folder": Path("/")}


def test_a_host_that_others_reach_needs_keys_or_trusted_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    outside = '[server]\nhost = "0.0.0.0"\n'
    with pytest.raises(ConfigError, match=r"server\.trusted"):
        parse_config(outside + MODEL, **HERE)
    trusting = outside + 'trusted = ["10.0.0.0/24"]\n'
    assert parse_config(trusting + MODEL, **HERE).server.trusted == ("10.0.0.0/24",)
    with pytest.raises(ConfigError, match=r"server\.trusted: has no effect"):
        parse_config(trusting + "insecure = true\n" + MODEL, **HERE)
    monkeypatch.setenv(KEYS_VARIABLE, "a:sk-of-a-0123456789")
    assert parse_config(trusting + "insecure = true\n" + MODEL, **HERE).server.insecure


def test_the_example_for_a_cluster_needs_no_key_of_its_router() -> None:
    """The two lines that it names for a router on another machine are a node that starts."""
    text = Path("config/mac-studio-three-models.toml").read_text(encoding="utf-8")
    remote = text.replace('host = "127.0.0.1"', 'host = "10.0.0.5"').replace("# trusted", "trusted")
    server = parse_config(remote, **HERE).server
    assert (server.host, server.trusted) == ("10.0.0.5", ("10.0.0.0/24",))
    assert Credentials(server).trusted.covers("10.0.0.9")


async def test_ipv6_peers_are_known_by_their_address(serving: Serving, keys: Path) -> None:
    try:
        url = await serving(host="::1", api_keys_file=keys, trusted=("::1",))
    except Exception:  # noqa: BLE001  (a machine without IPv6)
        pytest.skip("no IPv6 loopback")
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as answer:
        assert answer.status == 200


def test_a_reload_reads_the_trusted_addresses_again(keys: Path) -> None:
    credentials = Credentials(ServerConfig(host="0.0.0.0", trusted=("10.0.0.0/24",)))
    assert credentials.trusted.covers("10.0.0.7")
    credentials.load_new(ServerConfig(trusted=("10.0.1.0/24",), api_keys_file=keys))()
    assert not credentials.trusted.covers("10.0.0.7")
    assert credentials.trusted.covers("10.0.1.7")
    assert credentials.is_reloadable("trusted", ServerConfig())
    with pytest.raises(ConfigError, match=r"server\.host"):
        credentials.load_new(ServerConfig())
    assert credentials.trusted.covers("10.0.1.7"), "a configuration that is refused changes nothing"
