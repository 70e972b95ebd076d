"""Which model answered, and in which session: told with every answer of every dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.api.dialects.session_fields import MAX_SESSION_BYTES
from mlx_worker.api.middleware.request_ids import model_id
from tests.dialects import ALL, CHAT, Dialect
from tests.front.asking import model
from tests.sse import events_of

if TYPE_CHECKING:
    from tests.front.asking import Serve

MODELS = (model("big", default=True, aliases=("gpt-4o",)), model("small"))


@pytest.mark.parametrize("dialect", ALL, ids=repr)
@pytest.mark.parametrize(
    ("asked", "told", "answered"),
    [
        ("big", "big", "big"),
        ("gpt-4o", "gpt-4o", "big"),
        ("small", "small", "small"),
        ("current-model", "big", "big"),
        ("unknown", "big", "big"),
        (None, "big", "big"),
    ],
)
async def test_an_answer_names_the_model_that_made_it(
    serve: Serve, dialect: Dialect, asked: str | None, told: str, answered: str
) -> None:
    front = await serve(models=MODELS)
    named = {} if asked is None else {"model": asked}
    whole = await front.ask(dialect.path, dialect.body("hello", **named))
    assert (whole.json["model"], whole.headers["X-Model"]) == (told, answered)
    streamed = await front.ask(dialect.path, dialect.body("hello", stream=True, **named))
    assert streamed.headers["X-Model"] == answered
    said = events_of(streamed.body)[0][1]
    holder = said.get("response") or said.get("message") or said
    assert holder["model"] == told


def test_an_id_of_any_alphabet_fits_a_header() -> None:
    assert model_id("mlx-community/Qwen3 4B:latest") == "mlx-community/Qwen3 4B:latest"
    assert model_id("模型\r\n100%") == "%E6%A8%A1%E5%9E%8B%0D%0A100%25"


@pytest.mark.parametrize("name", ["my session", 'a;b, c="d"', "séance 7", "x" * MAX_SESSION_BYTES])
async def test_a_session_may_have_any_name_that_can_be_printed(serve: Serve, name: str) -> None:
    front = await serve()
    answer = await front.ask(CHAT.path, CHAT.body("hello"), X_Session_Id=name)
    assert answer.status == 200
    assert answer.headers["X-Session-Id"] == name


@pytest.mark.parametrize(
    ("name", "said"),
    [("x" * (MAX_SESSION_BYTES + 1), "1025 bytes; at most 1024"), ("a\tb", "cannot be printed")],
)
@pytest.mark.parametrize("dialect", ALL, ids=repr)
async def test_a_session_that_cannot_be_kept_is_refused_and_not_replaced(
    serve: Serve, dialect: Dialect, name: str, said: str
) -> None:
    front = await serve()
    answer = await front.ask(dialect.path, dialect.body("hello"), X_Session_Id=name)
    assert answer.status == 400
    message = dialect.read_error(answer.json)
    assert message.startswith("X-Session-Id: ")
    assert said in message
