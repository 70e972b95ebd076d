"""Bounds of numbers that llguidance cannot keep are kept closer to zero."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher

from mlx_worker.engine.structured.grammar import of_schema
from mlx_worker.engine.structured.schema_bounds import FARTHEST, LOWEST, within_reach
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.tool_call_schemas import arguments_of

FAR: Any = {"minimum": -(2**63), "maximum": 2**64 - 1}
NEAR = {"minimum": -FARTHEST, "maximum": FARTHEST}


@pytest.mark.parametrize("kind", ["integer", "number", ["integer", "null"]])
@pytest.mark.parametrize(
    "bounds",
    [
        FAR,
        {"minimum": -(2**63) + 1},
        {"maximum": 1e308},
        {"minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308},
        {"exclusiveMinimum": -1e19, "exclusiveMaximum": 1e19},
        {"maximum": FARTHEST},
    ],
)
def test_llguidance_keeps_bounds_however_far(kind: Any, bounds: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": kind} | bounds}}
    assert LLMatcher.validate_grammar(of_schema(schema)) == ""


def test_bounds_are_brought_closer_wherever_llguidance_reads_them() -> None:
    places: Any = {
        "properties": {"maximum": FAR},
        "items": FAR,
        "prefixItems": [FAR],
        "anyOf": [{"allOf": [FAR]}],
        "additionalProperties": FAR,
        "$defs": {"a": FAR},
    }
    assert within_reach(places) == {
        "properties": {"maximum": NEAR},
        "items": NEAR,
        "prefixItems": [NEAR],
        "anyOf": [{"allOf": [NEAR]}],
        "additionalProperties": NEAR,
        "$defs": {"a": NEAR},
    }


@pytest.mark.parametrize("kind", ["integer", ["integer", "null"]])
def test_bounds_of_integers_keep_all_but_the_lowest(kind: Any) -> None:
    wanted = {"type": kind, "minimum": -(2**63), "maximum": 2**63 - 1}
    assert within_reach(wanted) == wanted | {"minimum": LOWEST}
    other = {"type": kind, "exclusiveMinimum": -1e308}
    assert within_reach(other) == {"type": kind, "exclusiveMinimum": LOWEST}


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": -5, "maximum": 2**53},
        {"minimum": 1e19},
        {"const": {"maximum": 1e300}},
        {"enum": [{"maximum": 1e300}]},
        {"default": {"maximum": 1e300}, "maximum": None, "minimum": True},
        {"properties": None, "items": False, "anyOf": [True]},
    ],
)
def test_all_else_in_a_schema_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert within_reach(schema) is schema


@pytest.mark.parametrize(
    "kind", [{}, {"type": None}, {"type": "object"}, {"type": ["object", "null"]}]
)
def test_arguments_are_an_object_whatever_the_schema_leaves_open(kind: dict[str, Any]) -> None:
    tools = [{"function": {"name": "get", "parameters": {**kind, "properties": {}}}}]
    assert arguments_of(tools, ["get"]) == [{"type": "object", "properties": {}}]


@pytest.mark.parametrize("kind", ["array", ["string", "null"], 5])
def test_parameters_that_can_be_no_object_are_refused(kind: Any) -> None:
    with pytest.raises(InvalidRequest, match="'get' are not an object"):
        arguments_of([{"function": {"name": "get", "parameters": {"type": kind}}}], ["get"])
