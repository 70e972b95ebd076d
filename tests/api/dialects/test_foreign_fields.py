"""Fields of other servers: refused by name unless they ask for nothing, in every dialect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.completions import request as completions
from mlx_worker.api.dialects.foreign_fields import ALL_DIALECTS, HARMLESS, REFUSED, refused_in
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.errors import UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from mlx_worker.api.dialects.base import DialectName

SAID: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
BODIES: dict[DialectName, dict[str, Any]] = {
    "chat": SAID,
    "completions": {"prompt": "hello"},
    "responses": {"input": "hello"},
    "messages": SAID,
}
PARSERS: dict[DialectName, Callable[[bytes], Any]] = {
    "chat": chat.parse,
    "completions": completions.parse,
    "responses": responses.parse,
    "messages": messages.parse,
}
OWN: dict[DialectName, type[msgspec.Struct]] = {
    "chat": chat.ChatCompletionRequest,
    "completions": completions.CompletionRequest,
    "responses": responses.ResponseRequest,
    "messages": messages.MessageRequest,
}
OTHERS: tuple[Any, ...] = ("other", 7, True, {"a": 1}, [1])


def parse(dialect: DialectName, **fields: Any) -> Any:
    return PARSERS[dialect](json.dumps(BODIES[dialect] | fields).encode())


@pytest.mark.parametrize("dialect", ALL_DIALECTS)
def test_foreign_field_with_an_effect_is_refused_by_name(dialect: DialectName) -> None:
    for field in refused_in(dialect, OWN[dialect]):
        for value in (value for value in OTHERS if value not in field.neutral):
            with pytest.raises(UnsupportedField) as refused:
                parse(dialect, **{field.name: value})
            assert refused.value.param == field.name
            assert refused.value.message.startswith(
                f"{field.name}: this node cannot honour this field"
            )
            assert field.instead in refused.value.message


@pytest.mark.parametrize("dialect", ALL_DIALECTS)
def test_foreign_field_with_a_neutral_value_is_ignored(dialect: DialectName) -> None:
    plain = parse(dialect, seed=1)
    for field in refused_in(dialect, OWN[dialect]):
        neutral: list[Any] = [None, *field.neutral]
        for value in neutral:
            assert parse(dialect, seed=1, **{field.name: value}) == plain


def test_neutral_true_is_not_one_and_false_not_zero() -> None:
    others: list[Any] = [0, "false", []]
    for value in others:
        with pytest.raises(UnsupportedField):
            parse("chat", use_beam_search=value)
    with pytest.raises(UnsupportedField):
        parse("chat", mirostat=False)


@pytest.mark.parametrize("dialect", ALL_DIALECTS)
def test_harmless_fields_are_ignored(dialect: DialectName) -> None:
    plain = parse(dialect, seed=1)
    for name in (*HARMLESS, "a_name_of_no_server"):
        assert parse(dialect, seed=1, **{name: 3}) == plain


def test_foreign_field_nested_too_deeply_is_refused() -> None:
    body = b'{"prompt": "a", "options": ' + b"[" * 900 + b"]" * 900 + b"}"
    with pytest.raises(UnsupportedField):
        completions.parse(body)


def test_foreign_fields_are_unique_in_a_dialect() -> None:
    for dialect in ALL_DIALECTS:
        names = [field.name for field in REFUSED if dialect in field.dialects]
        assert sorted(set(names)) == sorted(names)
        assert not set(names) & set(HARMLESS)
