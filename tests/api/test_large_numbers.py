"""A number that the pipe to a model cannot carry is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_worker.api.fields import check_portable
from mlx_worker.errors import InvalidRequest


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (2**64, "tools"),
        (
            [{"function": {"parameters": {"maximum": 2**64}}}],
            "tools[0].function.parameters.maximum",
        ),
        ({"a": [1, {}, {"b": {"minimum": -(2**63) - 1}}]}, "tools.a[2].b.minimum"),
    ],
)
def test_a_number_beyond_64_bits_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_portable("tools", value)
    assert refused.value.message.startswith(f"{place}: a number beyond 64 bits")


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), [1e308, {"a": True}]])
def test_numbers_of_64_bits_are_carried(value: Any) -> None:
    check_portable("tools", value)
