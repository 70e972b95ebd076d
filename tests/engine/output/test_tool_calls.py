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

from mlx_worker.engine.output.tool_calls import MalformedCall, ParsedToolCall, parse_calls
from tests.rounds import rounds

if TYPE_CHECKING:
    from mlx_worker.engine.output.tool_call_values import CallParser

PARSERS = sorted(module.name for module in pkgutil.iter_modules(tool_parsers.__path__))
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
        ParsedToolCall(None, "look", arguments)
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
    with pytest.raises(MalformedCall, match=r"^not a tool call: "):
        parse_calls(json_tools.parse_tool_call, text, TOOLS)


def test_parse_calls_id_that_cannot_be_sent_is_left_out() -> None:
    text = '{"id": "\\ud800", "name": "look", "arguments": {}}'
    assert parse_calls(json_tools.parse_tool_call, text, TOOLS) == [
        ParsedToolCall(None, "look", "{}")
    ]


def test_parse_calls_problem_can_be_sent_whatever_the_parser_says() -> None:
    def parse(text: str, tools: Any) -> Any:
        raise ValueError(f"no function {text}")

    with pytest.raises(MalformedCall) as error:
        parse_calls(parse, "\ud800", TOOLS)
    assert str(error.value).encode()


CLOSE_TO = st.lists(
    st.one_of(st.sampled_from(sorted({c for text in WRITTEN.values() for c in text})), st.text()),
    max_size=40,
).map("".join)
CUT = st.sampled_from(sorted(WRITTEN.values())).flatmap(
    lambda text: st.integers(0, len(text)).map(lambda at: text[:at])
)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # some read a call as Python
@pytest.mark.parametrize("name", PARSERS)
@settings(derandomize=True, max_examples=rounds(5, 60, 60))
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


# --- values of calls whose format is tags around bare text -----------------------------------

TAGS = {
    "qwen3_coder": "<function=look><parameter=a>\n{}\n</parameter></function>",
    "minimax_m2": '<invoke name="look"><parameter name="a">{}</parameter></invoke>',
    "minicpm5": '<function name="look"><param name="a">{}</param></function>',
    "glm47": "look\n<arg_key>a</arg_key><arg_value>{}</arg_value>",
    "laguna": "look\n<arg_key>a</arg_key><arg_value>{}</arg_value>",
    "longcat": "look\n<longcat_arg_key>a</longcat_arg_key>"
    "<longcat_arg_value>{}</longcat_arg_value>",
}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
VALUES: list[tuple[dict[str, Any], str, Any]] = [
    (INTEGER, "7", 7),
    (INTEGER, "-7", -7),
    (INTEGER, "1234567890123456789", 1234567890123456789),
    (INTEGER, "9" * 60, int("9" * 60)),
    (INTEGER, "7.0", 7),
    (INTEGER, "7.5", 7.5),
    (INTEGER, "2026-01-15", "2026-01-15"),
    (INTEGER, "null", None),
    (NUMBER, "9007199254740993", 9007199254740993),
    (NUMBER, "9007199254740993.0", 9007199254740993),
    (NUMBER, "2.5", 2.5),
    (NUMBER, "1e3", 1000),
    (NUMBER, "1e400", "1e400"),
    (NUMBER, "1e9999", "1e9999"),
    (NUMBER, "NaN", "NaN"),
    (NUMBER, "-Infinity", "-Infinity"),
    (NUMBER, "about five", "about five"),
    ({"type": ["integer", "null"]}, "1234567890123456789", 1234567890123456789),
    ({"type": ["integer", "null"]}, "none", None),
    ({"anyOf": [INTEGER, {"type": "null"}]}, "9007199254740993", 9007199254740993),
    ({"oneOf": [NUMBER, {"type": "boolean"}]}, "true", True),
    ({"type": "boolean"}, "true", True),
    ({"type": "boolean"}, "False", False),
    ({"type": "boolean"}, "perhaps", "perhaps"),
    ({"type": ["boolean", "null"]}, "true", True),
    ({"type": "string"}, "123", "123"),
    ({"type": "array", "items": INTEGER}, "[1234567890123456789]", [1234567890123456789]),
    ({"type": "object"}, '{"k": 1}', {"k": 1}),
    ({"type": "object"}, '{"k": NaN}', '{"k": NaN}'),
]


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize(("schema", "written", "value"), VALUES)
def test_a_value_is_what_the_model_wrote_by_its_declared_type(
    name: str, schema: dict[str, Any], written: str, value: Any
) -> None:
    offered = {"type": "object", "properties": {"a": schema}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": offered}}]
    (call,) = parse_calls(parser(name), TAGS[name].format(written), tools)
    read = json.loads(call.arguments)["a"]
    assert (read, type(read)) == (value, type(value))


def test_an_object_without_a_declared_type_is_an_object() -> None:
    offered = {"type": "object", "properties": {"a": {}}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": offered}}]
    for written, value in (('{"k": 1}', {"k": 1}), ("plain words", "plain words"), ("7", "7")):
        (call,) = parse_calls(parser("qwen3_coder"), TAGS["qwen3_coder"].format(written), tools)
        assert json.loads(call.arguments) == {"a": value}


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
def test_arguments_have_several_names(key: str) -> None:
    (call,) = parse_calls(
        json_tools.parse_tool_call, f'{{"name": "look", "{key}": {{"a": 1}}}}', []
    )
    assert call.arguments == '{"a": 1}'


def test_a_call_as_the_api_writes_one_is_a_call() -> None:
    text = '{"type": "function", "function": {"name": "look", "arguments": "{\\"a\\": 1}"}}'
    assert parse_calls(json_tools.parse_tool_call, text, []) == [
        ParsedToolCall(None, "look", '{"a": 1}')
    ]


def test_words_under_another_name_are_not_lost() -> None:
    with pytest.raises(MalformedCall, match="no arguments, but 'at'"):
        parse_calls(json_tools.parse_tool_call, '{"name": "look", "at": "the river"}', TOOLS)
