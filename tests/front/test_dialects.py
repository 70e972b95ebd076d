"""What all dialects promise alike: one end, true figures, no loss in silence."""

import asyncio
from dataclasses import replace

import pytest

from mlx_worker.config.schema import ServerConfig
from tests.dialects import ALL, CHATS, Dialect, ReceivedAnswer, Usage
from tests.front.asking import PROMPT, Answer, Serve, model
from tests.sse import events_of
from tests.supervisor_harness import PATIENT, Fifo, soon

READ = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
}
"""The field of each dialect that has what the model reads."""

SIGNS = {
    "/v1/chat/completions": b'"delta":{},"finish_reason":null}',
    "/v1/completions": b'"finish_reason":null}],"usage":null}\n\n',  # the begin has the seed
    "/v1/responses": b'"sequence_number":2}\n\n',
    "/v1/messages": b"event: ping\n",
}
"""The bytes with which a stream says nothing but that its model works."""

every_dialect = pytest.mark.parametrize("dialect", ALL, ids=repr)
both_ways = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


def read_answer(dialect: Dialect, answer: Answer) -> ReceivedAnswer:
    assert answer.status == 200, answer.body
    if answer.headers["Content-Type"].startswith("application/json"):
        return dialect.read_full(answer.json)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    return dialect.read_stream(events_of(answer.body))


@every_dialect
@both_ways
async def test_an_answer_has_its_text_its_one_end_and_its_true_usage(
    serve: Serve, dialect: Dialect, stream: bool
) -> None:
    front = await serve()
    body = dialect.body("one two three", model="m", stream=stream)
    said = read_answer(dialect, await front.ask(dialect.path, body))
    assert said == ReceivedAnswer("one two three", finish="stop", usage=Usage(3, 0, 3))


@every_dialect
@both_ways
async def test_an_answer_that_the_token_limit_cut_says_so(
    serve: Serve, dialect: Dialect, stream: bool
) -> None:
    front = await serve()
    body = dialect.body("one two three", stream=stream) | {dialect.limit: 2}
    said = read_answer(dialect, await front.ask(dialect.path, body))
    assert said == ReceivedAnswer("one two", finish="length", usage=Usage(3, 0, 2))


@pytest.mark.parametrize("dialect", CHATS, ids=repr)
@both_ways
async def test_a_resident_system_prompt_is_in_the_usage_and_in_the_header(
    serve: Serve, dialect: Dialect, stream: bool
) -> None:
    front = await serve()
    body = dialect.body("hello", system=PROMPT, stream=stream)
    answers = [await front.ask(dialect.path, body, X_Session_Id="s-7") for _ in range(2)]
    assert [answer.headers["X-Cache-Hit"] for answer in answers] == ["false", "true"]
    assert [answer.headers["X-Session-Id"] for answer in answers] == ["s-7"] * 2
    usages = [read_answer(dialect, answer).usage for answer in answers]
    assert usages == [Usage(5, 0, 1), Usage(5, 4, 1)]


@every_dialect
async def test_a_failure_in_mid_stream_is_the_streams_last_and_only_end(
    serve: Serve, dialect: Dialect
) -> None:
    front = await serve("--fail-after-tokens", "2")
    answer = await front.ask(dialect.path, dialect.body("one two three", stream=True))
    assert answer.status == 200
    broken = dialect.read_broken(events_of(answer.body))
    assert broken.text == "one two"
    assert "so it was written" in broken.message


@every_dialect
async def test_a_failure_before_anything_was_sent_is_a_500_in_the_dialects_shape(
    serve: Serve, dialect: Dialect
) -> None:
    front = await serve("--fail-after-tokens", "2")
    answer = await front.ask(dialect.path, dialect.body("one two three"))
    assert answer.status == 500
    assert "so it was written" in dialect.read_error(answer.json)


@every_dialect
@both_ways
async def test_what_the_child_refuses_has_its_status_in_the_dialects_shape(
    serve: Serve, dialect: Dialect, stream: bool
) -> None:
    front = await serve("--refuse")
    answer = await front.ask(dialect.path, dialect.body("hello", stream=stream))
    assert answer.status == 400
    assert "5000 tokens of 4096" in dialect.read_error(answer.json)
    # Anthropic's errors name no field.
    assert answer.json["error"].get("param") == READ.get(dialect.path)


@every_dialect
@both_ways
async def test_a_full_queue_is_a_429_that_says_when_to_come_again(
    serve: Serve, dialect: Dialect, stream: bool, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1, max_queue=0),))
    first = asyncio.ensure_future(front.ask(dialect.path, dialect.body("one")))
    await front.reaches(running=1)
    answer = await front.ask(dialect.path, dialect.body("two", stream=stream))
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert dialect.read_error(answer.json)
    pace.let(1)
    assert read_answer(dialect, await soon(first)).text == "one"


@every_dialect
async def test_model_not_loaded_yet_is_a_503_with_retry_after(
    serve: Serve, dialect: Dialect, hold: Fifo
) -> None:
    impatient = replace(PATIENT, load_wait=0)
    front = await serve("--hold-load", hold.path, resume=impatient, wait=False)
    answer = await front.ask(dialect.path, dialect.body("hello"))
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "loading" in dialect.read_error(answer.json) or "starting" in dialect.read_error(
        answer.json
    )
    hold.let(1)


@every_dialect
async def test_an_unknown_model_is_a_404_in_the_dialects_shape(
    serve: Serve, dialect: Dialect
) -> None:
    front = await serve(wait=False)
    answer = await front.ask(dialect.path, dialect.body("hello", model="nobody"))
    assert answer.status == 404
    assert "nobody" in dialect.read_error(answer.json)


@every_dialect
@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b"{}", 422), (b'{"temperature": 9}', 422)]
)
async def test_a_body_that_means_nothing_is_the_callers_fault(
    serve: Serve, dialect: Dialect, body: bytes, status: int
) -> None:
    answer = await (await serve(wait=False)).ask(dialect.path, body)
    expected = 400 if dialect.path == "/v1/messages" else status
    assert answer.status in (400, expected)
    assert dialect.read_error(answer.json)


@every_dialect
async def test_wrong_method_or_large_body_is_refused_in_the_dialects_shape(
    serve: Serve, dialect: Dialect
) -> None:
    front = await serve(server=ServerConfig(max_body_bytes=2048), wait=False)
    wrong = await front.ask(dialect.path, method="PUT")
    large = await front.ask(dialect.path, dialect.body("x" * 3000))
    assert (wrong.status, large.status) == (405, 413)
    assert "PUT" in dialect.read_error(wrong.json)
    assert "2048" in dialect.read_error(large.json)


@every_dialect
async def test_unknown_fields_are_tolerated(serve: Serve, dialect: Dialect) -> None:
    front = await serve()
    body = dialect.body("hello", cache_prompt=True, service_tier="auto", nobody={"a": [1, {}]})
    assert read_answer(dialect, await front.ask(dialect.path, body)).text == "hello"


@every_dialect
async def test_a_stream_that_has_nothing_to_say_shows_signs_of_life(
    serve: Serve, dialect: Dialect, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, resume=replace(PATIENT, keepalive_interval=0))
    stream = await soon(front.open(dialect.path, dialect.body("one", stream=True)))
    read = await soon(stream.content.readuntil(SIGNS[dialect.path]))
    assert b"one" not in read
    pace.let(1)
    assert dialect.read_stream(events_of(read + await soon(stream.read()))).text == "one"


@every_dialect
async def test_a_client_that_leaves_its_stream_frees_the_row(
    serve: Serve, dialect: Dialect, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open(dialect.path, dialect.body("one two", stream=True)))
    pace.let(1)
    await soon(stream.content.readuntil(b'"one"'))
    stream.close()
    await front.reaches(running=0)


@every_dialect
@both_ways
async def test_a_crash_is_a_pause_in_every_dialect(
    serve: Serve, dialect: Dialect, stream: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    once = tmp_path_factory.mktemp("once") / "once"
    front = await serve("--die-after-tokens", "2", "--once", once)
    answer = await front.ask(dialect.path, dialect.body("one two three", stream=stream))
    assert read_answer(dialect, answer) == ReceivedAnswer(
        "one two three", finish="stop", usage=Usage(3, 0, 3)
    )
