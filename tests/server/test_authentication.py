"""Who is let in, and how those who are not are told."""

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from mlx_worker.api.routes import ROUTES
from tests.server.asking import ask, exchange
from tests.server.conftest import BEARER, KEY, Serving
from tests.supervisor_harness import soon

CHAT = {"messages": [{"role": "user", "content": "one two"}]}
OPEN = {"health/live", "health/ready"}
NOTHING = (
    "/nothing",
    "/v1",
    "/page/x/y",
    "/page/../health",
    "/page/%2e%2e/health",
    "/health/live/x",
    "/health/live%2f..%2f..%2fhealth",
)


async def test_everything_but_the_two_open_paths_asks_for_a_key(
    serving: Serving, keys: Path
) -> None:
    url = await serving(api_keys_file=keys)
    for route in ROUTES:
        where = route.path.replace("{id:.+}", "m")
        for prefix in ("/", "/v1/", "/v1/v1/"):
            for method in route.methods:
                answer = await ask(url, prefix + where, method=method)
                if where in OPEN:
                    assert answer.status == 200, where
                else:
                    assert answer.status == 401, where
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
    for own in ("/", "/v1/", "/page/main.js"):
        assert (await ask(url, own)).status == 200, own
    for nothing in NOTHING:
        assert (await ask(url, nothing)).status == 401, nothing


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Authorization": "Bearer"}, id="empty"),
        pytest.param({"Authorization": "Bearer sk-of-nobody-0123456789"}, id="nobody's"),
        pytest.param({"Authorization": f"Basic {KEY}"}, id="another scheme"),
        pytest.param({"Authorization": KEY}, id="no scheme"),
        pytest.param({"Authorization": f"Bearer {KEY}x"}, id="too long"),
        pytest.param({"Authorization": f"Bearer {KEY[:-1]}"}, id="too short"),
        pytest.param({"x-api-key": "alice"}, id="a name"),
        pytest.param({"Authorization": "Bearer wrong", "x-api-key": "wrong"}, id="two of them"),
    ],
)
async def test_a_key_that_is_none_is_a_401_in_the_callers_dialect(
    serving: Serving, keys: Path, headers: dict[str, str]
) -> None:
    url = await serving(api_keys_file=keys)
    answer = await ask(url, "/v1/chat/completions", CHAT, headers=headers)
    assert answer.status == 401
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    answer = await ask(url, "/v1/messages", CHAT | {"max_tokens": 9}, headers=headers)
    assert answer.status == 401
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(BEARER, id="bearer"),
        pytest.param({"authorization": f"bearer {KEY}"}, id="in small letters"),
        pytest.param({"x-api-key": KEY}, id="x-api-key"),
        pytest.param({"Authorization": "Bearer stale", "x-api-key": KEY}, id="stale bearer"),
        pytest.param(BEARER | {"x-api-key": "stale"}, id="stale x-api-key"),
    ],
)
async def test_either_way_of_sending_a_key_is_understood(
    serving: Serving, keys: Path, headers: dict[str, str]
) -> None:
    url = await serving(api_keys_file=keys)
    answer = await ask(url, "/v1/chat/completions", CHAT, headers=headers)
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"] == "one two"


async def test_the_official_clients_raise_their_own_exceptions(
    serving: Serving, keys: Path
) -> None:
    url = await serving(api_keys_file=keys)
    messages: Any = CHAT["messages"]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await soon(client.chat.completions.create(model="m", messages=messages))
    async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-wrong") as claude:
        with pytest.raises(anthropic.AuthenticationError):
            await soon(claude.messages.create(model="m", messages=messages, max_tokens=9))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        said = await soon(client.chat.completions.create(model="m", messages=messages))
        assert said.choices[0].message.content == "one two"
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY) as claude:
        block = (
            await soon(claude.messages.create(model="m", messages=messages, max_tokens=9))
        ).content[0]
        assert block.type == "text"
        assert block.text == "one two"


async def test_keys_node_without_keys_ignores_presented_keys(serving: Serving) -> None:
    url = await serving()
    for headers in ({}, {"Authorization": "Bearer sk-anything"}, {"x-api-key": "x"}):
        assert (await ask(url, "/v1/models", headers=headers)).status == 200


async def test_a_refusal_does_not_wait_for_the_body(serving: Serving, keys: Path) -> None:
    url = await serving(api_keys_file=keys)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    status, body = await exchange(url, head)
    assert status == 401
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


async def test_the_log_names_whose_key_it_was(
    serving: Serving, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    url = await serving(api_keys_file=keys)
    await ask(url, "/v1/chat/completions", CHAT, headers=BEARER)
    (line,) = [message for message in caplog.messages if "/chat/completions" in message]
    assert " key=alice " in line
    assert KEY not in caplog.text
