"""Bodies that mean nothing: the caller's fault, said with the field's name."""

from typing import Any

import pytest

from mlx_worker.config.schema import ServerConfig
from tests.front.asking import Serve

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param({}, "messages", id="no messages"),
        pytest.param({"messages": None}, "messages", id="null messages"),
        pytest.param({"messages": []}, "messages", id="empty messages"),
        pytest.param({"messages": "hello"}, "messages", id="messages of a wrong type"),
        pytest.param({"messages": ["hello"]}, "messages[0]", id="a message of a wrong type"),
        pytest.param({"messages": [{"content": "x"}]}, "messages[0].role", id="no role"),
        pytest.param(
            {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", id="wrong role"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": 7}]}, "messages[0].content", id="a number"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            id="an image",
        ),
        pytest.param({"messages": HELLO, "temperature": 3}, "temperature", id="too hot"),
        pytest.param({"messages": HELLO, "temperature": "hot"}, "temperature", id="hot"),
        pytest.param({"messages": HELLO, "max_tokens": 0}, "max_tokens", id="no tokens"),
        pytest.param({"messages": HELLO, "max_tokens": "ten"}, "max_tokens", id="ten tokens"),
        pytest.param({"messages": HELLO, "n": 0}, "n", id="no answers"),
        pytest.param({"messages": HELLO, "n": 129}, "n", id="too many answers"),
        pytest.param(
            {"messages": HELLO, "top_logprobs": 2}, "top_logprobs", id="top_logprobs alone"
        ),
        pytest.param({"messages": HELLO, "stream": "yes"}, "stream", id="stream of a wrong type"),
        pytest.param(
            {"messages": HELLO, "response_format": {"type": "structural_tag"}},
            "response_format",
            id="a format that is not honoured",
        ),
        pytest.param([], None, id="a list"),
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"not JSON", None, id="not JSON"),
        pytest.param(b'{"messages": [', None, id="half of it"),
        pytest.param(b'{"messages":[{"role":"user","content":"\xff"}]}', None, id="not UTF-8"),
        pytest.param(b'{"a":' + b"[" * 100_000, None, id="unknown and too deep"),
        pytest.param(
            b'{"chat_template_kwargs":{"a":' + b"[" * 100_000, None, id="known and too deep"
        ),
    ],
)
async def test_a_body_that_means_nothing_is_refused_and_its_field_named(
    serve: Serve, body: Any, param: str | None
) -> None:
    front = await serve(wait=False)
    answer = await front.ask("/v1/chat/completions", body)
    assert answer.status in (400, 422)
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    if param is not None:
        assert param in answer.error["message"]


async def test_missing_messages_are_a_422(serve: Serve) -> None:
    answer = await (await serve(wait=False)).ask("/v1/chat/completions", {"model": "m"})
    assert answer.status == 422


async def test_a_body_over_the_limit_is_a_413_with_the_limit(serve: Serve) -> None:
    front = await serve(server=ServerConfig(max_body_bytes=2048))
    answer = await front.chat("x" * 3000)
    assert answer.status == 413
    assert "2048" in answer.error["message"]
    assert (await front.chat("hello")).text == "hello"


def with_oddity(place: str, value: str) -> bytes:
    """A body that carries some JSON of the caller's own."""
    if place == "template":
        body = '{"messages":[{"role":"user","content":"hello"}],"chat_template_kwargs":{"a":%s}}'
    else:
        body = (
            '{"messages":[{"role":"assistant","tool_calls":[{"a":%s}]},'
            '{"role":"user","content":"hello"}]}'
        )
    return (body % value).encode()


@pytest.mark.parametrize("value", ["1" + "0" * 30, "-1" + "0" * 30, '"\\ud800"', "1e999"])
@pytest.mark.parametrize("place", ["template", "tool call"])
async def test_no_json_is_odd_enough_to_be_the_nodes_own_fault(
    serve: Serve, place: str, value: str
) -> None:
    front = await serve()
    answer = await front.ask("/v1/chat/completions", with_oddity(place, value))
    assert answer.status in (200, 400)
    assert (await front.model())["running"] == 0
    assert (await front.chat("hello")).text == "hello"
    assert (await front.model())["restarts"] == 0


@pytest.mark.parametrize("place", ["template", "tool call"])
async def test_no_json_is_just_too_deep_to_be_refused(serve: Serve, place: str) -> None:
    front = await serve()

    async def status(depth: int) -> int:
        body = with_oddity(place, "[" * depth + "]" * depth)
        return (await front.ask("/v1/chat/completions", body)).status

    accepted, refused = 1, 100_000
    while refused - accepted > 1:
        depth = (accepted + refused) // 2
        if await status(depth) == 200:
            accepted = depth
        else:
            refused = depth
    # Every decoder and encoder on the way has to have the same limit.
    around = {await status(depth) for depth in range(max(1, accepted - 5), refused + 40)}
    assert around == {200, 400}
    assert (await front.model())["restarts"] == 0


async def test_a_body_that_is_not_compressed_as_it_says_is_the_callers_fault(serve: Serve) -> None:
    front = await serve(wait=False)
    answer = await front.ask("/v1/chat/completions", b"not gzip", Content_Encoding="gzip")
    assert answer.status == 400
