"""What is said of a value that does not fit its type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from mlx_worker.validation import explain


class Inner(msgspec.Struct):
    """A value that is one of a few, in different places."""

    kind: Literal["a", "b"] | None = None
    kinds: list[Literal["a", 2]] = []
    of_keys: dict[str, Literal["c"]] = {}
    bounded: Annotated[str, msgspec.Meta(max_length=3)] | list[Literal["d"]] = ""
    renamed: Literal["e"] = msgspec.field(name="type", default="e")


class Outer(msgspec.Struct):
    """What holds them."""

    inner: list[Inner] | None = None


@pytest.mark.parametrize(
    ("inner", "path", "problem"),
    [
        ({"kind": "x"}, "inner[0].kind", "'x' is not one of 'a', 'b'"),
        ({"kinds": ["a", 3]}, "inner[0].kinds[1]", "3 is not one of 2, 'a'"),
        ({"of_keys": {"k": "x"}}, "inner[0].of_keys[...]", "the value is not one of 'c'"),
        ({"bounded": ["x"]}, "inner[0].bounded[0]", "'x' is not one of 'd'"),
        ({"type": "x"}, "inner[0].type", "'x' is not one of 'e'"),
        ({"kind": "x" * 99}, "inner[0].kind", "the value is not one of 'a', 'b'"),
        ({"kind": 5}, "inner[0].kind", "expected `str | null`, got `int` (here 5)"),
    ],
)
def test_a_value_of_none_of_the_listed_ones_says_which_would_do(
    inner: dict[str, Any], path: str, problem: str
) -> None:
    raw = {"inner": [inner]}
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(raw, Outer)
    assert explain(caught.value, raw, Outer) == (path, problem)
