"""The tools of a response: namespaces and custom tools, under the names that a model calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.base import ResponseInfo, Usage
from mlx_worker.api.dialects.responses.request import ResponsesGenerationRequest, parse
from mlx_worker.api.dialects.responses.response import ResponsesWriter
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.limits import RENAMED_TOOLS
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import OutputDelta
from mlx_worker.wire.output import Span, ToolCall
from mlx_worker.wire.request import AnswerConstraint, ToolCallConstraint
from tests.call_counter import calls
from tests.dialects import RESPONSES, ReceivedAnswer
from tests.sse import events_of

INTEGER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ADD = {"type": "function", "name": "add", "description": "Adds.", "parameters": INTEGER}
PATCH = {"type": "custom", "name": "patch", "description": "Patches."}
USER = {"role": "user", "content": "Hello"}


def space(name: str, *tools: dict[str, Any], description: str = "") -> dict[str, Any]:
    return {"type": "namespace", "name": name, "description": description, "tools": [*tools]}


def asked(**fields: Any) -> ResponsesGenerationRequest:
    return parse(json.dumps({"input": "Hello"} | fields).encode())


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    return caught.value


def offered(*tools: dict[str, Any], **fields: Any) -> list[str]:
    chat = asked(tools=tools, **fields).chats[0]
    return [tool["function"]["name"] for tool in chat.tools]


def forced(choice: Any, *tools: dict[str, Any]) -> AnswerConstraint | None:
    return asked(tools=tools, tool_choice=choice).chats[0].constraint


# --- in: what is offered ------------------------------------------------------------------


def test_namespace_functions_are_offered_under_joined_names() -> None:
    chat = asked(tools=[ADD, space("mcp__demo", ADD, ADD | {"name": "sub"})]).chats[0]
    assert [tool["function"] for tool in chat.tools] == [
        {"name": name, "description": "Adds.", "parameters": INTEGER}
        for name in ("add", "mcp__demo__add", "mcp__demo__sub")
    ]


def test_namespace_description_is_shown_with_its_first_function() -> None:
    tools = asked(tools=[space("demo", ADD, ADD | {"name": "sub"}, description="Sums.")]).chats[0]
    said = [tool["function"]["description"] for tool in tools.tools]
    assert said == ["Sums.\n\nAdds.", "Adds."]


@pytest.mark.parametrize("tools", [[], [space("demo")]], ids=["no tools", "an empty namespace"])
def test_no_tools_offer_nothing(tools: list[Any]) -> None:
    assert offered(*tools) == []


def test_custom_tool_is_offered_as_a_function_of_one_text() -> None:
    (tool,) = asked(tools=[PATCH]).chats[0].tools
    parameters = {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    assert tool["function"] == {
        "name": "patch",
        "description": "Patches.",
        "parameters": parameters,
    }


def grammar(syntax: str, definition: str) -> dict[str, Any]:
    form = {"type": "grammar", "syntax": syntax, "definition": definition}
    return PATCH | {"format": form}


def input_of(tool: dict[str, Any]) -> Any:
    (made,) = asked(tools=[tool]).chats[0].tools
    return made["function"]["parameters"]["properties"]["input"]


def test_custom_tool_regex_is_the_pattern_of_its_input() -> None:
    assert input_of(grammar("regex", "[0-9]+|x"))["pattern"] == "^(?:[0-9]+|x)$"


def test_custom_tool_lark_grammar_is_shown_to_the_model() -> None:
    assert "start: /x/" in input_of(grammar("lark", "start: /x/"))["description"]


@pytest.mark.parametrize(
    ("tool", "choice", "warned"),
    [
        (PATCH, "auto", False),
        (PATCH | {"format": {"type": "text"}}, "auto", False),
        (grammar("lark", "start: /x/"), "auto", True),
        (grammar("lark", "start: /x/"), "required", True),
        (grammar("regex", "x"), "auto", True),
        (grammar("regex", "x"), "required", False),
    ],
)
def test_unenforced_grammar_is_a_warning(tool: dict[str, Any], choice: str, warned: bool) -> None:
    assert bool(asked(tools=[tool], tool_choice=choice).warnings) is warned


def test_equal_joined_names_get_digests_in_any_order() -> None:
    plain = ADD | {"name": "a__b__add"}
    tools = [plain, space("a__b", ADD), space("a", ADD | {"name": "b__add"})]
    names = offered(*tools)
    assert names[0] == "a__b__add"
    assert len({*names}) == 3
    assert all(name.startswith("a__b__add_") for name in names[1:])
    assert offered(*reversed(tools)) == names[::-1]


def test_custom_tool_with_a_functions_name_gets_a_digest() -> None:
    names = offered(PATCH, ADD | {"name": "patch"})
    assert names[1] == "patch"
    assert names[0].startswith("patch_")


def test_name_with_a_digest_is_distinct_from_other_tools() -> None:
    taken = offered(PATCH, ADD | {"name": "patch"})[0]
    names = offered(PATCH, ADD | {"name": "patch"}, ADD | {"name": taken})
    assert len({*names}) == 3


@pytest.mark.parametrize("name", ["n" * 200, "mcp.server/get-it:v1"])
def test_namespace_accepts_every_function_name(name: str) -> None:
    assert offered(space(name, ADD)) == [f"{name}__add"]


def test_namespace_tools_are_bounded() -> None:
    tools = [ADD | {"name": f"f{i}"} for i in range(RENAMED_TOOLS + 1)]
    assert len(offered(space("demo", *tools[1:]))) == RENAMED_TOOLS
    error = refused(tools=[space("demo", *tools)])
    assert (error.param, str(RENAMED_TOOLS) in error.message) == ("tools", True)


@pytest.mark.parametrize("kind", ["additional_tools", "tool_search_output"])
def test_tools_of_an_item_are_offered(kind: str) -> None:
    item = {"type": kind, "role": "developer", "tools": [space("demo", ADD)]}
    assert offered(ADD, input=[USER, item]) == ["add", "demo__add"]
    assert asked(input=[USER, item]).warnings == []


@pytest.mark.parametrize(
    ("tools", "param", "said"),
    [
        ([ADD, {"type": "x"}], "tools[1].type", "'x' is not one of 'function', 'custom', 'names"),
        ([{"type": "x" * 99}], "tools[0].type", "the value is not one of 'function'"),
        ([space("demo", {"type": "namespace"})], "tools[0].tools[0].type", "one of 'function', 'c"),
        ([space("demo", {"type": "web_search"})], "tools[0].tools[0].type", "one of 'function'"),
        ([space("demo", {"type": "function"})], "tools[0].tools[0].name", "is required"),
        ([{"type": "namespace", "tools": []}], "tools[0].name", "is required"),
        ([{"type": "namespace", "name": "demo"}], "tools[0].tools", "is required"),
        ([{"type": "custom"}], "tools[0].name", "is required"),
        ([PATCH | {"format": {"type": "x"}}], "tools[0].format.type", "'x'"),
        ([PATCH | {"format": {"type": "grammar"}}], "tools[0].format.syntax", "is required"),
    ],
)
def test_malformed_tool_is_named_by_its_path(tools: Any, param: str, said: str) -> None:
    error = refused(tools=tools)
    assert error.param == param
    assert said in error.message
    assert len(error.message) < 200


def test_unknown_tool_type_is_an_unsupported_field() -> None:
    assert isinstance(refused(tools=[{"type": "x"}]), UnsupportedField)


# --- in: what has to be called ------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["add", "demo__add", "demo__sub", "patch"]),
        ({"type": "function", "name": "add"}, ["add"]),
        ({"type": "function", "name": "add", "namespace": "demo"}, ["demo__add"]),
        ({"type": "function", "name": "sub"}, ["demo__sub"]),
        ({"type": "custom", "name": "patch"}, ["patch"]),
    ],
)
def test_tool_choice_uses_the_clients_names(choice: Any, names: list[str]) -> None:
    tools = [ADD, space("demo", ADD, ADD | {"name": "sub"}), PATCH]
    assert forced(choice, *tools) == ToolCallConstraint(names, "tool_choice")


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "sub"},
        {"type": "function", "name": "patch"},
        {"type": "custom", "name": "add"},
        {"type": "function", "name": "add", "namespace": "other"},
    ],
)
def test_tool_choice_of_unknown_or_ambiguous_name_is_refused(choice: Any) -> None:
    sub = ADD | {"name": "sub"}
    error = refused(tools=[ADD, space("a", sub), space("b", sub), PATCH], tool_choice=choice)
    assert (error.param, "there is no tool" in error.message) == ("tool_choice", True)


def test_allowed_tools_limit_the_offer() -> None:
    tools = [ADD, space("demo", ADD), PATCH, {"type": "web_search"}]
    listed = [
        {"type": "function", "name": "add", "namespace": "demo"},
        {"type": "custom", "name": "patch"},
        {"type": "web_search"},
    ]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": listed}
    chat = asked(tools=tools, tool_choice=choice).chats[0]
    assert [tool["function"]["name"] for tool in chat.tools] == ["demo__add", "patch"]
    assert (chat.constraint, chat.one_call) == (None, False)
    chat = asked(tools=tools, tool_choice=choice | {"mode": "required"}).chats[0]
    assert chat.constraint == ToolCallConstraint(["demo__add", "patch"], "tool_choice")
    assert not chat.one_call


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"type": "web_search"}, "'web_search' is a hosted tool"),
        ({"type": "mcp", "server_label": "x"}, "'mcp' is a hosted tool"),
        ({"type": "x"}, "'x' is not one of 'function', 'custom', 'allowed_tools'"),
        ("validated", "'validated'"),
    ],
)
def test_tool_choice_of_hosted_tools_is_unsupported(choice: Any, said: str) -> None:
    error = refused(tools=[ADD, {"type": "web_search"}], tool_choice=choice)
    assert isinstance(error, UnsupportedField)
    assert error.param is not None
    assert error.param.startswith("tool_choice")
    assert said in error.message


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
    ],
)
def test_tool_choice_required_without_tools_is_refused(choice: Any) -> None:
    error = refused(tools=[{"type": "web_search"}], tool_choice=choice)
    assert isinstance(error, UnsupportedField)
    assert "web_search" in error.message


# --- in: what was called before -----------------------------------------------------------


def test_earlier_calls_have_the_offered_names() -> None:
    call = asked(
        tools=[ADD, PATCH, space("mcp__demo", ADD), ADD | {"name": "patch"}],
        input=[
            USER,
            {
                "type": "function_call",
                "call_id": "c1",
                "namespace": "mcp__demo",
                "name": "add",
                "arguments": '{"a": 5}',
            },
            {"type": "function_call_output", "call_id": "c1", "output": "5"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": '"a"\n'},
            {
                "type": "custom_tool_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "done"}],
            },
            {
                "type": "function_call",
                "call_id": "c3",
                "namespace": "gone",
                "name": "add",
                "arguments": "{}",
            },
        ],
    )
    chat = call.chats[0]
    names = [tool["function"]["name"] for tool in chat.tools]
    made = [turn["tool_calls"][0]["function"] for turn in chat.messages if "tool_calls" in turn]
    assert [call["name"] for call in made] == ["mcp__demo__add", names[1], "gone__add"]
    assert made[0]["arguments"] == '{"a": 5}'
    assert json.loads(made[1]["arguments"]) == {"input": '"a"\n'}
    told = {
        message["tool_call_id"]: message["content"]
        for message in chat.messages
        if message["role"] == "tool"
    }
    assert told == {"c1": "5", "c2": "done"}


def test_earlier_hosted_calls_with_text_results_are_kept() -> None:
    items = [
        {"type": "local_shell_call", "call_id": "c1", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "c1", "output": "a b"},
        {"type": "shell_call", "call_id": "c2", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "c2", "output": [{"stdout": "a b"}]},
        {"type": "apply_patch_call", "call_id": "c3", "operation": {"path": "a"}},
        {"type": "apply_patch_call_output", "call_id": "c3", "status": "completed"},
        {
            "type": "mcp_call",
            "id": "c4",
            "server_label": "wiki",
            "name": "ask",
            "arguments": '{"q": 1}',
            "output": "so",
        },
        {"type": "mcp_call", "id": "c5", "server_label": "w", "name": "ask", "error": {"code": 7}},
    ]
    call = asked(input=[USER, *items])
    turns = call.chats[0].messages
    calls = [call for turn in turns for call in turn.get("tool_calls", [])]
    assert [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls
    ] == [
        ("c1", "local_shell", '{"command":["ls"]}'),
        ("c2", "shell", '{"commands":["ls"]}'),
        ("c3", "apply_patch", '{"path":"a"}'),
        ("c4", "wiki__ask", '{"q": 1}'),
        ("c5", "w__ask", "{}"),
    ]
    told = [
        (message["tool_call_id"], message["content"])
        for message in turns
        if message["role"] == "tool"
    ]
    assert told == [
        ("c1", "a b"),
        ("c2", '[{"stdout":"a b"}]'),
        ("c3", ""),
        ("c4", "so"),
        ("c5", '{"code":7}'),
    ]
    assert call.warnings == []


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "secret"}},
        {"type": "computer_call_output", "call_id": "x", "output": {"type": "computer_screenshot"}},
        {"type": "tool_search_call", "arguments": {"query": "x"}},
        {"type": "item_reference", "id": "msg_1"},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "mcp_list_tools", "server_label": "x", "tools": [{"name": "a"}]},
        {"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": "1"}]},
    ],
    ids=lambda item: item["type"],
)
def test_items_of_hosted_tools_are_left_out_with_a_warning(item: dict[str, Any]) -> None:
    call = asked(input=[USER, item, USER])
    assert call.chats[0].messages == asked(input=[USER, USER]).chats[0].messages
    (warning,) = call.warnings
    assert warning.startswith("input: ")
    assert item["type"] in warning
    assert "secret" not in warning


def test_unknown_item_type_names_the_known_types() -> None:
    error = refused(input=[USER, {"type": "functoin_call"}])
    assert isinstance(error, UnsupportedField)
    assert "'functoin_call' is not one of 'message', 'reasoning', 'function_call'" in error.message


# --- out ----------------------------------------------------------------------------------


def both_ways(call: ResponsesGenerationRequest, *spans: Span) -> list[ReceivedAnswer]:
    usage, ending = Usage(1, 0, 1), FinishInfo("tool_calls", 1)
    piece = OutputDelta(list(spans), [])
    streamed, whole = (ResponsesWriter(call, ResponseInfo("m", 1, "fp")) for _ in range(2))
    events = streamed.start(usage) + streamed.delta(piece, 0) + streamed.finish([ending], usage)
    body = json.loads(whole.full_response([(piece, ending)], usage))
    return [RESPONSES.read_stream(events_of(events)), RESPONSES.read_full(body)]


def test_call_returns_under_its_namespace_streamed_and_whole() -> None:
    call = asked(tools=[ADD, space("mcp__demo", ADD)])
    spans = [ToolCall("c1", "mcp__demo__add", '{"a": 5}'), ToolCall("c2", "add", "{}")]
    for received in both_ways(call, *spans):
        assert received.calls == [("c1", "mcp__demo/add", {"a": 5}), ("c2", "add", {})]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "*** Begin\\n"}', "*** Begin\n"),
        ('{"patch": "*** Begin"}', "*** Begin"),
        ('{"input": ""}', ""),
        ("{}", "{}"),
        ('{"input": {"a": 1}}', '{"input": {"a": 1}}'),
        ('{"a": "1", "b": "2"}', '{"a": "1", "b": "2"}'),
    ],
)
def test_custom_tool_call_returns_as_its_text(arguments: str, text: str) -> None:
    call = asked(tools=[space("demo", PATCH)])
    for received in both_ways(call, ToolCall("c1", "demo__patch", arguments)):
        assert received.calls == [("c1", "demo/patch", text)]


def test_call_of_an_unknown_tool_keeps_the_models_name() -> None:
    for received in both_ways(asked(tools=[space("demo", ADD)]), ToolCall("c1", "demo.add", "{}")):
        assert received.calls == [("c1", "demo.add", {})]


# --- how much work ------------------------------------------------------------------------


def additional(count: int) -> dict[str, Any]:
    tools = [space("demo", ADD | {"name": "f"})]
    return {"input": [USER, *[{"type": "additional_tools", "tools": tools}] * count]}


def allowed(count: int) -> dict[str, Any]:
    tools = [ADD | {"name": f"f{i}"} for i in range(count)]
    listed = [{"type": "function", "name": f"f{i}"} for i in range(count)]
    choice = {"type": "allowed_tools", "mode": "required", "tools": listed}
    return {"tools": [space("demo", *tools)], "tool_choice": choice}


def colliding(count: int) -> dict[str, Any]:
    return {"tools": [tool | {"name": f"f{i}"} for i in range(count) for tool in (ADD, PATCH)]}


@pytest.mark.parametrize("body", [additional, allowed, colliding])
def test_work_grows_linearly_with_the_tools(body: Any) -> None:
    few, many = (_work(body(count)) for count in (100, 200))
    assert many < 2.1 * few


def _work(body: dict[str, Any]) -> int:
    return sum(calls(lambda: asked(**body)).values())
