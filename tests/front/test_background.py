"""Responses in the background: made without a client, read by their id, cancelled by their id."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import openai
import pytest

from mlx_worker.api.openapi import document
from mlx_worker.api.routes import ROUTES
from mlx_worker.config.schema import ServerConfig
from tests.dialects import ALL, RESPONSES, Dialect
from tests.front.asking import Front, Serve, model
from tests.front.test_lingering import counts, has_clients, table
from tests.front.test_requests import is_free, reaches
from tests.sse import events_of
from tests.supervisor_harness import Fifo, eventually, kill_worker, soon

if TYPE_CHECKING:
    from pathlib import Path

WORDS: Final = "one two three four"
STEPS: Final = len(WORDS.split()) + 2
PATH: Final = "/v1/responses"
OPENAPI: Final[dict[str, Any]] = json.loads(document(ROUTES))
ASKED: Final[dict[str, Any]] = {"input": WORDS, "background": True, "metadata": {"a": "b"}}


def client_of(front: Front) -> openai.AsyncOpenAI:
    url = str(front.client.make_url("/v1"))
    return openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0)


async def has_status(front: Front, id_: str, status: str) -> bool:
    return bool((await front.ask(f"{PATH}/{id_}")).json["status"] == status)


async def test_background_response_is_polled_to_its_end(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1),))
    busy = asyncio.ensure_future(front.chat("one"))
    await front.reaches(running=1)
    async with client_of(front) as client:
        response = await client.responses.create(model="m", **ASKED)
        assert (response.status, response.background, response.output) == ("queued", True, [])
        pace.let(3)
        await soon(busy)
        await eventually(lambda: has_status(front, response.id, "in_progress"))
        pace.let(STEPS)
        await eventually(lambda: has_status(front, response.id, "completed"))
        done = await client.responses.retrieve(response.id)
        assert (done.output_text, done.metadata, done.id) == (WORDS, {"a": "b"}, response.id)
        assert done.created_at == response.created_at
        assert (await client.responses.cancel(response.id)).status == "completed"
    head = await front.ask(f"{PATH}/{response.id}", method="HEAD")
    assert head.status == 200


async def test_background_response_has_the_headers_that_openapi_requires(serve: Serve) -> None:
    front = await serve()
    response = await front.client.post(PATH, json={"model": "m", **ASKED})
    headers = OPENAPI["paths"]["/responses"]["post"]["responses"]["200"]["headers"]
    required = {name for name, header in headers.items() if header["required"]}
    assert "X-Model" in required
    assert all(name in response.headers for name in required)


async def test_background_stream_goes_on_after_a_sequence_number(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    pace.let(2)
    async with client_of(front) as client:
        stream = await client.responses.create(model="m", stream=True, **ASKED)
        seen: list[Any] = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        id_ = seen[0].response.id
        await eventually(lambda: has_clients(front, 0))
        rest = await client.responses.retrieve(
            id_, stream=True, starting_after=seen[-1].sequence_number
        )
        pace.let(STEPS)
        later = [event async for event in rest]
        assert [event.sequence_number for event in (*seen, *later)] == [
            *range(len(seen) + len(later))
        ]
        assert later[-1].type == "response.completed"
        assert later[-1].response.output_text == WORDS
        whole = await client.responses.retrieve(id_)
        assert whole.output == later[-1].response.output
        again = await front.ask(f"{PATH}/{id_}?stream=true")
        assert len(events_of(again.body)) == len(seen) + len(later)
    assert await counts(front, "responses") == (1, 4, 2)


async def test_background_response_is_cancelled_by_its_client(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    id_ = (await front.ask(PATH, ASKED)).json["id"]
    pace.let(1)
    await reaches(front, "generating")
    for _ in range(2):
        cancelled = await front.ask(f"{PATH}/{id_}/cancel", method="POST")
        assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
        await is_free(front)
    assert (await front.ask(f"{PATH}/{id_}")).json["status"] == "cancelled"


async def test_background_stream_that_is_cancelled_ends_with_an_error(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open(PATH, ASKED | {"stream": True}))
    pace.let(1)
    (row,) = await reaches(front, "generating")
    assert row["dialect"] == "responses"
    first = await soon(stream.content.readuntil(b"\n\n"))
    id_ = json.loads(first.partition(b"data: ")[2])["response"]["id"]
    await front.ask(f"{PATH}/{id_}/cancel", method="POST")
    *_, last = events_of(first + await soon(stream.read()))
    assert (last.data["type"], last.data["code"]) == ("error", "response_cancelled")


async def test_background_response_resumes_after_a_crash(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    id_ = (await front.ask(PATH, ASKED)).json["id"]
    pace.let(2)
    await reaches(front, "generating")
    kill_worker((await front.model())["pid"])
    await reaches(front, "resuming")
    pace.let(STEPS)
    await eventually(lambda: has_status(front, id_, "completed"))
    text = (await front.ask(f"{PATH}/{id_}")).json["output"][0]["content"][0]["text"]
    assert text == WORDS


@pytest.mark.parametrize("stream", [True, False])
async def test_background_response_that_fails_says_why(serve: Serve, stream: bool) -> None:
    front = await serve("--fail-after-tokens", "2")
    answer = await front.ask(PATH, ASKED | {"stream": stream})
    id_ = events_of(answer.body)[0].data["response"]["id"] if stream else answer.json["id"]
    await eventually(lambda: has_status(front, id_, "failed"))
    assert (await front.ask(f"{PATH}/{id_}")).json["error"]["code"] == "inference_error"


async def test_background_response_leaves_after_its_time(serve: Serve) -> None:
    front = await serve(server=ServerConfig(linger_background=0.01))
    id_ = (await front.ask(PATH, ASKED)).json["id"]

    async def is_gone() -> bool:
        return (await front.ask(f"{PATH}/{id_}")).status == 404

    await eventually(is_gone)
    assert table(front).kept_bytes == 0


async def test_background_refusals_are_the_answer_of_the_request(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1, max_queue=0),))
    first = await front.ask(PATH, ASKED)
    assert first.status == 200
    full = await front.ask(PATH, ASKED)
    assert (full.status, full.error["code"]) == (429, "queue_full")
    wrong = await front.ask(PATH, ASKED | {"input": []})
    assert wrong.status == 400


@pytest.mark.parametrize(
    ("fields", "param"), [({"store": False}, "background"), ({"conversation": "c"}, "conversation")]
)
async def test_background_with_fields_that_exclude_storing_is_refused(
    serve: Serve, fields: dict[str, Any], param: str
) -> None:
    front = await serve()
    answer = await front.ask(PATH, ASKED | fields)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize("dialect", [dialect for dialect in ALL if dialect != RESPONSES], ids=repr)
async def test_background_in_another_dialect_is_refused(serve: Serve, dialect: Dialect) -> None:
    front = await serve()
    body = dialect.body("one", background=True, **{dialect.limit: 9})
    answer = await front.ask(dialect.path, body)
    assert answer.status == 400
    assert "background" in dialect.read_error(answer.json)


async def test_background_word_in_a_text_changes_nothing(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask(PATH, {"input": '"background" is a word'})
    assert answer.json["background"] is False
    assert table(front).kept_bytes == 0


async def test_background_id_of_another_key_is_not_found(serve: Serve, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann:aaaaaaaaaaaaaaaa\nbob:bbbbbbbbbbbbbbbb\n")
    keys.chmod(0o600)
    front = await serve(server=ServerConfig(api_keys_file=keys))
    ann, bob = "Bearer aaaaaaaaaaaaaaaa", "Bearer bbbbbbbbbbbbbbbb"
    id_ = (await front.ask(PATH, ASKED, Authorization=ann)).json["id"]
    path = f"{PATH}/{id_}"
    assert (await front.ask(path, Authorization=ann)).status == 200
    for method, of in (("GET", path), ("POST", f"{path}/cancel")):
        other = await front.ask(of, method=method, Authorization=bob)
        assert (other.status, other.error["code"]) == (404, "response_not_found")


async def test_background_endpoints_refuse_what_they_cannot_do(serve: Serve) -> None:
    front = await serve()
    lasting = {"Idempotency_Key": "k-1"}
    named = (await front.ask(PATH, {"input": "one"}, **lasting)).json["id"]
    kept = await front.ask(f"{PATH}/{named}")
    assert (kept.status, kept.json["status"]) == (200, "completed")
    for path, method, param in (
        (f"{PATH}/{named}/cancel", "POST", None),
        (f"{PATH}/{named}?stream=true", "GET", "stream"),
        (f"{PATH}/{named}?stream=1", "GET", "stream"),
    ):
        answer = await front.ask(path, method=method)
        assert (answer.status, answer.error["param"]) == (400, param)
    streamed = await front.ask(PATH, {"input": "one", "stream": True}, Idempotency_Key="k-2")
    id_ = events_of(streamed.body)[0].data["response"]["id"]
    answer = await front.ask(f"{PATH}/{id_}?stream=true&starting_after=x")
    assert (answer.status, answer.error["param"]) == (400, "starting_after")
    after_all = await front.ask(f"{PATH}/{id_}?stream=true&starting_after=999")
    assert (after_all.status, after_all.body) == (200, b"")
