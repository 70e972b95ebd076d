"""orjson writes what msgspec would write, and a value that orjson refuses is written too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.api.admin import log_buffer, schemas
from mlx_worker.api.dashboard import history
from mlx_worker.api.dialects import errors
from mlx_worker.json_output import embedded, encode, encode_text, encode_with_str, joined_list
from mlx_worker.supervisor import event_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

BEYOND = 2**64
"""The first integer that orjson refuses."""

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def structs_of(module: ModuleType) -> list[type[msgspec.Struct]]:
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == module.__name__
    ]


MODULES = (schemas, errors, history, log_buffer, event_log)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of an annotated type, Structs in it included."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = get_type_hints(kind)
        return st.builds(kind, **{name: values_of(field) for name, field in fields.items()})
    parts = get_args(kind)
    match get_origin(kind):
        case origin if origin is list:
            return st.lists(values_of(parts[0]), max_size=3)
        case origin if origin is dict:
            return st.dictionaries(values_of(parts[0]), values_of(parts[1]), max_size=3)
    return VALUES if kind is Any else st.from_type(kind)


def read(written: bytes) -> str:
    """Return written JSON as what a reader gets; `repr` tells 1 from 1.0 and 0.0 from -0.0."""
    return repr(json.loads(written))


@pytest.mark.parametrize("kind", [kind for module in MODULES for kind in structs_of(module)])
@given(data=st.data())
def test_an_answer_of_any_type_reads_as_msgspec_writes_it(
    kind: type[msgspec.Struct], data: st.DataObject
) -> None:
    answer = data.draw(values_of(kind))
    assert read(encode(answer)) == read(msgspec.json.encode(answer))
    assert read(encode({"of": [answer]})) == read(msgspec.json.encode({"of": [answer]}))


@given(VALUES)
def test_any_value_reads_as_msgspec_writes_it(value: Any) -> None:
    assert read(encode(value)) == read(msgspec.json.encode(value))
    assert read(encode_with_str(value)) == read(msgspec.json.encode(value))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_has_the_bytes_that_msgspec_writes(text: str) -> None:
    assert encode_text(text) == encode(text) == msgspec.json.encode(text)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_null(number: float) -> None:
    assert encode([number]) == b"[null]"


@pytest.mark.parametrize("number", [BEYOND - 1, BEYOND, -(2**63), -(2**63) - 1, 10**40])
def test_a_large_integer_keeps_all_its_digits(number: int) -> None:
    written = encode({"tools": [{"maximum": number}]})
    assert written == b'{"tools":[{"maximum":%d}]}' % number


def test_a_deep_nest_is_written_as_a_whole() -> None:
    nest: list[Any] = []
    for _ in range(900):
        nest = [nest]
    assert encode(nest) == b"[" * 901 + b"]" * 901


def test_a_key_that_is_an_integer_is_written_as_text() -> None:
    assert encode({1: {2: "a"}}) == b'{"1":{"2":"a"}}'


class Pair(NamedTuple):
    left: int
    right: str


@pytest.mark.parametrize("value", [{3}, b"ab", Pair(1, "a"), event_log.NodeEvent(1.0, "k", "", {})])
def test_what_only_msgspec_knows_is_written_as_msgspec_writes_it(value: Any) -> None:
    assert encode([value]) == msgspec.json.encode([value])


@pytest.mark.parametrize("write", [encode, encode_with_str])
def test_half_a_character_is_refused(write: Callable[[Any], bytes]) -> None:
    with pytest.raises(UnicodeEncodeError):
        write({"text": "\ud83d"})


@pytest.mark.parametrize("code", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_no_half_of_a_character_comes_through_the_pipe(code: int) -> None:
    # `encode_text` has no way out for one, and writes what a child said.
    text = chr(code)
    with pytest.raises(UnicodeEncodeError):
        msgspec.msgpack.encode(text)
    data = text.encode("utf-8", "surrogatepass")
    with pytest.raises(UnicodeDecodeError):
        msgspec.msgpack.decode(bytes([0xA0 | len(data)]) + data)


def test_an_object_of_an_unknown_type_is_its_str_or_is_refused() -> None:
    assert encode_with_str({"error": ValueError("no"), "set": {1}}) == b'{"error":"no","set":[1]}'
    with pytest.raises(TypeError, match="ValueError"):
        encode({"error": ValueError("no")})


@pytest.mark.parametrize("number", [1, BEYOND])
def test_embedded_json_stays_as_it_is(number: int) -> None:
    body = {"raw": msgspec.Raw(b"[ 1]"), "text": embedded('{"a": "é"}'), "number": number}
    written = f'{{"raw":[ 1],"text":{{"a": "é"}},"number":{number}}}'
    assert encode(body) == written.encode()


def test_joined_stretches_are_one_list() -> None:
    assert encode({"all": joined_list(b"1,2", b"", b"3")}) == b'{"all":[1,2,3]}'
    assert encode(joined_list()) == b"[]"
