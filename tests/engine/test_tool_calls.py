"""The text of a call to the call: whatever a model writes, a call or one error."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm import tool_parsers
from mlx_lm.tool_parsers import json_tools

from mlx_worker.engine.tool_calls import MalformedCall, ParsedCall, parse_calls

if TYPE_CHECKING:
    from mlx_worker.engine.tool_calls import CallParser

PARSERS = sorted(it.name for it in pkgutil.iter_modules(tool_parsers.__path__))
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}, "far": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]


def parser(name: str) -> CallParser:
    parse: CallParser = importlib.import_module(f"mlx_lm.tool_parsers.{name}").parse_tool_call
    return parse


# How some formats write look(at="the river", far=2).
WRITTEN = {
    "json_tools": '{"name": "look", "arguments": {"at": "the river", "far": 2}}',
    "pythonic": '[look(at="the river", far=2)]',
    "mistral": 'look[ARGS]{"at": "the river", "far": 2}',
    "glm47": "look\n<arg_key>at</arg_key><arg_value>the river</arg_value>"
    "<arg_key>far</arg_key><arg_value>2</arg_value>",
    "qwen3_coder": "<function=look><parameter=at>the river</parameter>"
    "<parameter=far>2</parameter></function>",
    "gemma4": 'call:look{at:<|"|>the river<|"|>,far:2}',
    "function_gemma": "call:look{at:<escape>the river<escape>,far:2}",
    "kimi_k2": 'functions.look:0<|tool_call_argument_begin|>{"at": "the river", "far": 2}',
}


@pytest.mark.parametrize(("name", "text"), WRITTEN.items(), ids=WRITTEN)
def test_a_call_is_read_in_its_models_format(name: str, text: str) -> None:
    (call,) = parse_calls(parser(name), text, TOOLS)
    assert (call.name, json.loads(call.arguments)) == ("look", {"at": "the river", "far": 2})
    assert call.id == ("functions.look:0" if name == "kimi_k2" else None)


def test_one_text_may_hold_several_calls() -> None:
    calls = parse_calls(parser("pythonic"), "[look(far=1), look(far=2)]", TOOLS)
    assert [call.arguments for call in calls] == ['{"far": 1}', '{"far": 2}']


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        pytest.param('{"name": "look"}', "{}", id="left out"),
        pytest.param('{"name": "look", "arguments": null}', "{}", id="null"),
        pytest.param(
            '{"name": "look", "arguments": "{\\"at\\": 1}"}', '{"at": 1}', id="in a string"
        ),
        pytest.param(
            '{"name": "look", "arguments": {"at": "東"}}', '{"at": "東"}', id="beyond ASCII"
        ),
    ],
)
def test_arguments_are_an_object_in_json(text: str, arguments: str) -> None:
    assert parse_calls(json_tools.parse_tool_call, text, []) == [
        ParsedCall(None, "look", arguments)
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("look!", id="no JSON"),
        pytest.param('{"name": "look", "arguments": {', id="half of it"),
        pytest.param("3", id="a number"),
        pytest.param("[]", id="no calls"),
        pytest.param('[{"name": "look"}, 3]', id="a call and a number"),
        pytest.param('{"arguments": {}}', id="no name"),
        pytest.param('{"name": ""}', id="an empty name"),
        pytest.param('{"name": ["look"]}', id="a list for a name"),
        pytest.param('{"name": "look", "arguments": [1]}', id="a list of arguments"),
        pytest.param('{"name": "look", "arguments": "at"}', id="arguments that are a word"),
        pytest.param('{"name": "look", "arguments": {"at": NaN}}', id="not a number"),
        pytest.param('{"name": "look", "arguments": {"at": "\\ud800"}}', id="half a pair"),
        pytest.param('{"name": "\\ud800"}', id="half a pair for a name"),
        pytest.param("[" * 100_000, id="a deep nest"),
    ],
)
def test_what_nobody_could_carry_out_is_one_error(text: str) -> None:
    with pytest.raises(MalformedCall, match=r"^not a call: "):
        parse_calls(json_tools.parse_tool_call, text, TOOLS)


CLOSE_TO = st.lists(
    st.one_of(st.sampled_from(sorted({c for it in WRITTEN.values() for c in it})), st.text()),
    max_size=40,
).map("".join)
CUT = st.sampled_from(sorted(WRITTEN.values())).flatmap(
    lambda text: st.integers(0, len(text)).map(lambda at: text[:at])
)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # some read a call as Python
@pytest.mark.parametrize("name", PARSERS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(text=st.one_of(CLOSE_TO, CUT))
def test_any_text_in_any_format_is_a_call_or_one_error(name: str, text: str) -> None:
    try:
        calls = parse_calls(parser(name), text, TOOLS)
    except MalformedCall:
        return
    for call in calls:
        arguments: Any = json.loads(call.arguments)
        assert isinstance(arguments, dict)
        assert call.name
