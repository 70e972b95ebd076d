"""What an answer has to be, as each dialect asks for it: one constraint of the neutral request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.completions import request as completions
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.request import (
    ChatRequest,
    JsonSchemaConstraint,
    LarkConstraint,
    RegexConstraint,
    ToolCallConstraint,
)

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": [1.5, None]}}}
TEXT = '{"type":"object","properties":{"b":{"type":"integer"},"a":{"enum":[1.5,null]}}}'
HELLO = [{"role": "user", "content": "Hello"}]
PARSERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "chat": (chat.parse, {"messages": HELLO}),
    "completions": (completions.parse, {"prompt": "Hello"}),
    "responses": (responses.parse, {"input": "Hello"}),
    "messages": (messages.parse, {"messages": HELLO}),
}


def asked(dialect: str, **fields: Any) -> ChatRequest:
    parse, body = PARSERS[dialect]
    (chat,) = parse(json.dumps(body | fields).encode()).chats
    assert isinstance(chat, ChatRequest)
    return chat


def tools_of(dialect: str, *names: str) -> list[dict[str, Any]]:
    if dialect == "chat":
        return [{"type": "function", "function": {"name": name}} for name in names]
    return (
        [{"type": "function", "name": name} for name in names]
        if dialect == "responses"
        else [{"name": name, "input_schema": {}} for name in names]
    )


def named_of(dialect: str, name: str) -> dict[str, Any]:
    choices: dict[str, dict[str, Any]] = {
        "chat": {"type": "function", "function": {"name": name}},
        "responses": {"type": "function", "name": name},
        "messages": {"type": "tool", "name": name},
    }
    return choices[dialect]


@pytest.mark.parametrize("dialect", PARSERS)
def test_no_constraint_field_gives_no_constraint(dialect: str) -> None:
    assert asked(dialect).constraint is None


@pytest.mark.parametrize(
    ("dialect", "fields", "field"),
    [
        (
            "chat",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "response_format.json_schema.schema",
        ),
        (
            "responses",
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}},
            "text.format.schema",
        ),
        (
            "messages",
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            "output_config.format.schema",
        ),
        (
            "messages",
            {"output_format": {"type": "json_schema", "schema": SCHEMA}},
            "output_format.schema",
        ),
    ],
)
def test_schema_keeps_the_order_of_its_keys(
    dialect: str, fields: dict[str, Any], field: str
) -> None:
    assert asked(dialect, **fields).constraint == JsonSchemaConstraint(TEXT, field)


def test_json_object_is_a_schema_of_any_object() -> None:
    any_object_constraint = '{"type":"object"}'
    form = {"type": "json_object"}
    assert asked("chat", response_format=form).constraint == JsonSchemaConstraint(
        any_object_constraint, "response_format"
    )
    assert asked("responses", text={"format": form}).constraint == JsonSchemaConstraint(
        any_object_constraint, "text.format"
    )


@pytest.mark.parametrize("dialect", PARSERS)
@pytest.mark.parametrize(
    ("wanted", "constraint"),
    [
        ({"json": SCHEMA}, JsonSchemaConstraint(TEXT, "structured_outputs.json")),
        ({"regex": "a+"}, RegexConstraint("a+", "structured_outputs.regex")),
        ({"grammar": 'start: "a"'}, LarkConstraint('start: "a"', "structured_outputs.grammar")),
        (
            {"choice": ["yes", 'a "no"']},
            LarkConstraint(
                'start: CHOICE\nCHOICE: "yes" | "a \\"no\\""', "structured_outputs.choice"
            ),
        ),
    ],
)
def test_extension_is_accepted_in_every_dialect(
    dialect: str, wanted: dict[str, Any], constraint: object
) -> None:
    assert asked(dialect, structured_outputs=wanted).constraint == constraint


@pytest.mark.parametrize("dialect", PARSERS)
@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"guided_json": SCHEMA}, JsonSchemaConstraint(TEXT, "guided_json")),
        ({"guided_json": TEXT}, JsonSchemaConstraint(TEXT, "guided_json")),
        ({"guided_regex": "a+"}, RegexConstraint("a+", "guided_regex")),
        (
            {"guided_choice": ["yes"]},
            LarkConstraint('start: CHOICE\nCHOICE: "yes"', "guided_choice"),
        ),
        ({"guided_grammar": 'root ::= "a"'}, LarkConstraint('root ::= "a"', "guided_grammar")),
        ({"json_schema": SCHEMA}, JsonSchemaConstraint(TEXT, "json_schema")),
        ({"regex": "a+"}, RegexConstraint("a+", "regex")),
        ({"grammar": 'root ::= "a"'}, LarkConstraint('root ::= "a"', "grammar")),
        ({"ebnf": 'root ::= "a"'}, LarkConstraint('root ::= "a"', "ebnf")),
        (
            {"structured_outputs": {"json": TEXT, "disable_any_whitespace": False}},
            JsonSchemaConstraint(TEXT, "structured_outputs.json"),
        ),
        (
            {"structured_outputs": {"json_object": True}},
            JsonSchemaConstraint('{"type":"object"}', "structured_outputs.json_object"),
        ),
        ({"structured_outputs": {"json_object": False}}, None),
    ],
)
def test_other_names_are_accepted_in_every_dialect(
    dialect: str, fields: dict[str, Any], constraint: object
) -> None:
    assert asked(dialect, **fields).constraint == constraint


@pytest.mark.parametrize("dialect", ["chat", "completions"])
@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_schema_beside_the_format_type_is_used(dialect: str, kind: str) -> None:
    form = {"type": kind, "schema": SCHEMA, "name": "a", "strict": True}
    expected = JsonSchemaConstraint(TEXT, "response_format.schema")
    assert asked(dialect, response_format=form).constraint == expected


def test_response_format_works_in_completions() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    expected = asked("chat", response_format=form).constraint
    assert expected is not None
    assert asked("completions", response_format=form).constraint == expected
    assert asked("completions", response_format={"type": "text"}).constraint is None


def test_text_format_combines_with_another_constraint() -> None:
    shape = asked("chat", response_format={"type": "text"}, regex="a").constraint
    assert shape == RegexConstraint("a", "regex")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        (
            {"structured_outputs": {"structural_tag": "a"}},
            "structured_outputs.structural_tag",
        ),
        (
            {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
            "structured_outputs.whitespace_pattern",
        ),
        ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json"),
        ({"guided_json": "no JSON"}, "guided_json"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_choice": "yes"}, "guided_choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "a"}}, "guided_regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
        ({"response_format": {"type": "json_schema", "schema": [1]}}, "response_format.schema"),
        ({"response_format": {"type": "json_object", "value": {"a": 1}}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "schema": {},
                    "json_schema": {"schema": {}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
            "response_format.json_schema.schema",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": named_of("chat", "b"), "tools": tools_of("chat", "a")}, "tool_choice"),
        (
            {"tool_choice": {"type": "function"}, "tools": tools_of("chat", "a")},
            "tool_choice.function",
        ),
    ],
)
def test_malformed_constraint_is_refused_with_its_path(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked("chat", **fields)
    assert refused.value.param == param
    assert param in refused.value.message


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
def test_tool_choice_forces_any_tool_or_one(dialect: str) -> None:
    tools = tools_of(dialect, "look", "listen")
    required: Any = {"type": "any"} if dialect == "messages" else "required"
    either = asked(dialect, tools=tools, tool_choice=required)
    assert either.constraint == ToolCallConstraint(["look", "listen"], "tool_choice")
    assert not either.one_call
    one = asked(dialect, tools=tools, tool_choice=named_of(dialect, "listen"))
    assert one.constraint == ToolCallConstraint(["listen"], "tool_choice")
    assert one.one_call
    assert len(one.tools) == 2


def test_forced_calls_can_be_limited_to_one() -> None:
    tools = tools_of("chat", "look")
    fields = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
    assert asked("chat", **fields).one_call
    choice = {"type": "any", "disable_parallel_tool_use": True}
    assert asked("messages", tools=tools_of("messages", "look"), tool_choice=choice).one_call


def test_forced_calls_go_before_a_content_constraint() -> None:
    form = {"type": "json_object"}
    request = asked(
        "chat", tools=tools_of("chat", "look"), tool_choice="required", response_format=form
    )
    assert request.constraint == ToolCallConstraint(["look"], "tool_choice")
