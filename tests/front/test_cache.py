"""Warming, reading and clearing the prompt cache over HTTP."""

import asyncio
import hashlib
import time
from typing import Any

import pytest

from tests.front.asking import DIGEST, PROMPT, Serve, model
from tests.supervisor_harness import Fifo, eventually, soon


@pytest.mark.parametrize("path", ["/cache/warm", "/v1/cluster/cache/warm"])
@pytest.mark.parametrize("field", ["system_prompt", "systemPrompt"])
async def test_warming_answers_with_hash_and_tokens(serve: Serve, path: str, field: str) -> None:
    front = await serve()
    before = time.time() * 1000
    answer = await front.ask(path, {field: PROMPT})
    assert answer.status == 200
    body = answer.json
    assert body["success"] is True
    assert body["hash"] == body["systemPromptHash"] == DIGEST
    assert body["tokens"] == 4
    assert before <= body["lastUpdated"] <= time.time() * 1000


async def test_a_warmed_prompt_is_reported_and_hit(serve: Serve) -> None:
    front = await serve()
    await front.ask("/cache/warm", {"system_prompt": PROMPT})
    for path in ("/cache", "/v1/cluster/cache", "/cache?model=m"):
        body = (await front.ask(path)).json
        assert (body["tokens"], body["systemPromptHash"]) == (4, DIGEST)
        assert body["lastUpdated"] > 0
        assert body["hitRate"] == 0
    health = (await front.ask("/health")).json
    assert health["cache"]["warmed"] is True
    assert health["cache"]["tokens"] == 4
    answer = await front.chat("hello", system=PROMPT)
    assert answer.headers["X-Cache-Hit"] == "true"
    assert answer.json["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert (await front.ask("/v1/cluster/cache")).json["hitRate"] == 1
    await front.chat("hello")
    detail = (await front.ask("/cache?model=m")).json
    assert (detail["hitRate"], detail["misses"]) == (0.5, {"no system prompt": 1})


async def test_several_warmed_prompts_live_side_by_side_the_last_is_reported(serve: Serve) -> None:
    front = await serve()
    for prompt in (PROMPT, "another prompt"):
        await front.ask("/cache/warm", {"system_prompt": prompt})
    assert (await front.ask("/cache")).json["tokens"] == 2
    for prompt in (PROMPT, "another prompt"):
        assert (await front.chat("hello", system=prompt)).headers["X-Cache-Hit"] == "true"


async def test_the_cache_has_each_models_detail(serve: Serve) -> None:
    front = await serve(models=(model("a", default=True), model("b")))
    await front.ask("/cache/warm", {"system_prompt": PROMPT, "model": "b"})
    body = (await front.ask("/cache")).json
    assert (body["tokens"], body["models"]["b"]["tokens"]) == (4, 4)
    assert body["models"]["a"]["tokens"] == 0
    assert body["models"]["b"]["entries"] == 1
    assert body["models"]["b"]["bytes"] > 0
    assert body["models"]["b"]["capacity"] > 0
    assert (await front.ask("/cache?model=a")).json["tokens"] == 0


async def test_an_empty_prompt_is_warmed_by_doing_nothing(serve: Serve) -> None:
    answer = await (await serve()).ask("/cache/warm", {"systemPrompt": ""})
    assert (answer.status, answer.json["success"], answer.json["tokens"]) == (200, True, 0)
    assert answer.json["systemPromptHash"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("body", [{}, {"prompt": PROMPT}, {"system_prompt": None}])
async def test_warming_without_a_prompt_is_a_422_that_names_the_field(
    serve: Serve, body: dict[str, Any]
) -> None:
    answer = await (await serve(wait=False)).ask("/cache/warm", body)
    assert answer.status == 422
    assert answer.error["param"] == "system_prompt"


@pytest.mark.parametrize(
    ("body", "param"), [(b"nonsense", None), ({"system_prompt": 7}, "system_prompt"), ([], None)]
)
async def test_warming_with_nonsense_is_the_callers_fault(
    serve: Serve, body: Any, param: str | None
) -> None:
    answer = await (await serve(wait=False)).ask("/cache/warm", body)
    assert answer.status in (400, 422)
    assert answer.error["param"] == param


async def test_a_warm_up_that_the_child_fails_is_a_500_with_a_message(serve: Serve) -> None:
    front = await serve("--fail-warm")
    answer = await front.ask("/cache/warm", {"system_prompt": PROMPT})
    assert answer.status == 500
    assert "so it was written" in answer.error["message"]
    assert (await front.chat("still here")).text == "still here"


async def test_warming_goes_on_when_its_caller_hangs_up(serve: Serve, hold: Fifo) -> None:
    front = await serve("--hold-warm", hold.path)
    warming = asyncio.ensure_future(front.ask("/v1/cluster/cache/warm", {"systemPrompt": PROMPT}))

    async def begun() -> bool:
        return front.node.primary.child.open_ids == 1

    await eventually(begun)
    warming.cancel()
    await asyncio.wait({warming})
    hold.let(1)

    async def warmed() -> bool:
        return bool((await front.ask("/cache")).json["systemPromptHash"] == DIGEST)

    await eventually(warmed)


async def test_warming_waits_for_a_model_that_is_on_its_way(serve: Serve, hold: Fifo) -> None:
    front = await serve("--hold-load", hold.path, wait=False)
    await front.reaches(state="loading")
    warming = asyncio.ensure_future(front.ask("/cache/warm", {"system_prompt": PROMPT}))
    hold.let(1)
    answer = await soon(warming)
    assert (answer.status, answer.json["tokens"]) == (200, 4)


async def test_clearing_forgets(serve: Serve) -> None:
    front = await serve()
    await front.ask("/cache/warm", {"system_prompt": PROMPT})
    answer = await front.ask("/cache", method="DELETE")
    assert (answer.status, answer.json["success"]) == (200, True)
    body = (await front.ask("/cache")).json
    assert (body["tokens"], body["systemPromptHash"]) == (0, "")
    assert (await front.chat("hello", system=PROMPT)).headers["X-Cache-Hit"] == "false"
    assert (await front.ask("/cache", method="DELETE")).status == 200


async def test_clearing_one_model_leaves_the_other(serve: Serve) -> None:
    front = await serve(models=(model("a"), model("b")))
    for name in ("a", "b"):
        await front.ask("/cache/warm", {"system_prompt": PROMPT, "model": name})
    assert (await front.ask("/cache?model=a", method="DELETE")).status == 200
    models = (await front.ask("/cache")).json["models"]
    assert (models["a"]["tokens"], models["b"]["tokens"]) == (0, 4)


async def test_a_child_that_is_busy_keeps_no_other_from_clearing(serve: Serve, hold: Fifo) -> None:
    front = await serve("--hold-warm", hold.path, models=(model("a"), model("b")))
    hold.let(1)
    await front.ask("/cache/warm", {"system_prompt": PROMPT, "model": "b"})
    warming = asyncio.ensure_future(
        front.ask("/cache/warm", {"system_prompt": PROMPT, "model": "a"})
    )

    async def begun() -> bool:
        return front.node.models["a"].child.open_ids == 1

    await eventually(begun)
    clearing = asyncio.ensure_future(front.ask("/cache", method="DELETE"))

    async def cleared() -> bool:
        return bool((await front.ask("/cache")).json["models"]["b"]["tokens"] == 0)

    await eventually(cleared)
    assert not clearing.done()
    hold.let(1)
    assert (await soon(clearing)).status == 200
    await soon(warming)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_the_cache_of_an_unknown_model_is_a_404(serve: Serve, method: str) -> None:
    answer = await (await serve(wait=False)).ask("/cache?model=gpt-4o", method=method)
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
