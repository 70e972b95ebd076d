"""The list of models as Anthropic's clients, which send `anthropic-version`, read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.front.asking import Answer, Front, Serve, model
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from mlx_worker.config.schema import ModelConfig

VERSION = "2023-06-01"
NAMES = [f"m{i}" for i in range(45)]


def many() -> tuple[ModelConfig, ...]:
    """Return one model with 45 names: three pages of the default size."""
    return (model(NAMES[0], aliases=tuple(NAMES[1:])),)


async def listed(front: Front, query: str = "") -> Answer:
    return await front.ask(f"/v1/models{query}", anthropic_version=VERSION)


def ids(body: Any) -> list[str]:
    return [listed["id"] for listed in body["data"]]


async def test_a_model_has_the_keys_that_anthropics_clients_read(serve: Serve) -> None:
    front = await serve(models=(model("m", aliases=("claude-x",)),))
    before = datetime.now(UTC).timestamp()
    body = (await listed(front)).json
    assert set(body) == {"data", "has_more", "first_id", "last_id"}
    assert (body["has_more"], body["first_id"], body["last_id"]) == (False, "m", "claude-x")
    entry = body["data"][1]
    created = datetime.fromisoformat(entry.pop("created_at"))
    assert created.tzinfo is not None
    assert before - 60 <= created.timestamp() <= before + 60
    assert entry == {
        "type": "model",
        "id": "claude-x",
        "display_name": "claude-x",
        "lifecycle": "active",
        "max_input_tokens": 4096,
        "max_tokens": 4096,
    }
    one = await front.ask("/v1/models/claude-x", anthropic_version=VERSION)
    assert one.json == body["data"][1] | {"created_at": one.json["created_at"]}


async def test_the_official_client_goes_through_all_pages(serve: Serve) -> None:
    front = await serve(models=many())
    url = str(front.client.make_url("/"))
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        found = [listed async for listed in await soon(client.models.list())]
        assert [listed.id for listed in found] == NAMES
        assert {listed.type for listed in found} == {"model"}
        assert found[0].created_at.tzinfo is not None
        assert (await soon(client.models.retrieve("m7"))).display_name == "m7"
        page = await soon(client.models.list(before_id="m40", limit=15))
        backwards = [listed.id async for listed in page]
        assert sorted(backwards, key=NAMES.index) == NAMES[:40]
        with pytest.raises(anthropic.NotFoundError, match="nope"):
            await soon(client.models.retrieve("nope"))


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ("", NAMES[:20], True),
        ("?limit=1000", NAMES, False),
        ("?limit=45", NAMES, False),
        ("?limit=44", NAMES[:44], True),
        ("?after_id=m19", NAMES[20:40], True),
        ("?after_id=m39", NAMES[40:], False),
        ("?after_id=m44", [], False),
        ("?before_id=m0", [], False),
        ("?before_id=m20", NAMES[:20], False),
        ("?before_id=m44&limit=3", NAMES[41:44], True),
        ("?lifecycle[]=active&limit=2", NAMES[:2], True),
        ("?lifecycle[]=retired&lifecycle[]=deprecated", [], False),
    ],
)
async def test_a_page_is_the_part_that_was_asked_for(
    serve: Serve, query: str, names: list[str], has_more: bool
) -> None:
    body = (await listed(await serve(models=many(), wait=False), query)).json
    assert (ids(body), body["has_more"]) == (names, has_more)
    ends = (names[0], names[-1]) if names else (None, None)
    assert (body["first_id"], body["last_id"]) == ends


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=-1", "limit"),
        ("?limit=1e2", "limit"),
        ("?limit=", "limit"),
        ("?limit=%D9%A3", "limit"),
        ("?after_id=nope", "after_id"),
        ("?before_id=nope", "before_id"),
        ("?after_id=m1&before_id=m3", "before_id"),
        ("?lifecycle[]=new", "lifecycle"),
    ],
)
async def test_a_query_without_meaning_is_refused_in_anthropics_words(
    serve: Serve, query: str, field: str
) -> None:
    answer = await listed(await serve(models=many(), wait=False), query)
    assert answer.status == 400
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.json["error"]["message"].startswith(f"{field}: ")


@pytest.mark.parametrize("path", ["/v1/models/nope", "/v1/skills", "/nowhere"])
async def test_what_is_not_there_is_said_in_anthropics_words(serve: Serve, path: str) -> None:
    front = await serve(wait=False)
    answer = await front.ask(path, anthropic_version=VERSION)
    assert answer.status == 404
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == "not_found_error"
    assert (await front.ask(path)).error["type"] == "invalid_request_error"


async def test_openais_paths_keep_openais_words_whatever_the_header(serve: Serve) -> None:
    front = await serve(wait=False)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        answer = await front.ask(path, {}, anthropic_version=VERSION)
        assert answer.error["type"] == "invalid_request_error", path
        assert (await front.ask(path, anthropic_version=VERSION)).error["code"] == "wrong_method"
    answer = await front.ask("/tokenize", {}, anthropic_version=VERSION)
    assert (answer.status, answer.error["code"]) == (422, "missing_field")


async def test_without_the_header_the_list_is_openais_and_has_no_pages(serve: Serve) -> None:
    front = await serve(models=many(), wait=False)
    assert ids((await front.ask("/v1/models?limit=0")).json) == NAMES
    url = str(front.client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        assert [listed.id async for listed in client.models.list()] == NAMES
