"""The tools of a response: functions, custom tools and namespaces, as functions for a model.

A model is shown functions alone. A tool of a namespace is offered under a joined name, and a custom
tool as a function with one text, `input`. A call comes back to the client in the client's own form.
Source: OpenAI's API reference, responses.

[front]
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from mlx_worker.api.dialects.decoding import convert_field
from mlx_worker.api.dialects.fields import ShortText, require_field
from mlx_worker.api.dialects.hosted_tools import (
    TOOL_CHOICES,
    ResolvedTools,
    refuse_hosted_choice,
    refuse_nothing_to_call,
    split_hosted,
    tools_warning,
    types_of,
    unknown_type_error,
)
from mlx_worker.api.dialects.responses.tool_names import ToolName, assign_offered_names
from mlx_worker.api.dialects.structured_output import tool_call_constraint
from mlx_worker.errors import InvalidRequest
from mlx_worker.limits import RENAMED_TOOLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.request import ToolCallConstraint

TYPES: Final = ("function", "custom", "namespace")

CUSTOM_INPUT: Final = "input"
"""The one argument of a function that stands for a custom tool."""

GRAMMAR_WARNING: Final = (
    "tools: the grammars of custom tools are shown to the model, but not enforced"
)


class FunctionTool(msgspec.Struct, frozen=True):
    """A function that is offered."""

    type: Literal["function"]
    name: ShortText
    description: str | None = None
    parameters: dict[str, Any] | None = None


class CustomToolFormat(msgspec.Struct, frozen=True):
    """The format of a custom tool's input."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(msgspec.Struct, frozen=True):
    """A tool whose input is a text."""

    type: Literal["custom"]
    name: ShortText
    description: str | None = None
    format: CustomToolFormat | None = None


class NamespaceTool(msgspec.Struct, frozen=True):
    """A group of tools that share the first part of their names."""

    type: Literal["namespace"]
    name: ShortText
    tools: list[dict[str, Any]]
    description: str | None = None


class ResponsesToolChoice(msgspec.Struct, frozen=True):
    """A tool that has to be called, or that may be called."""

    type: Literal["function", "custom"]
    name: ShortText
    namespace: ShortText | None = None


class ResponsesAllowedTools(msgspec.Struct, frozen=True):
    """The only tools that may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class _DeclaredTool(NamedTuple):
    """A tool as it will be offered, but for its name; `grammar` is the syntax of its input."""

    name: ToolName
    description: str
    parameters: dict[str, Any] | None
    grammar: str | None = None


class ToolCatalog:
    """The tools of one request; `left_out` are the types of hosted ones.

    All tools are added before a name is looked up.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._tools: list[_DeclaredTool] = []
        self._renamed_count = 0

    def add(self, declared: Sequence[dict[str, Any]], field: str) -> None:
        """Add the tools of one field. Raises InvalidRequest."""
        own, hosted = split_hosted(declared, field)
        self.left_out += types_of(hosted)
        tools = [parsed for place, tool in own for parsed in _parse_tools(tool, place)]
        self._tools += tools
        self._renamed_count += sum(not tool.name.is_plain for tool in tools)
        if self._renamed_count > RENAMED_TOOLS:
            raise InvalidRequest(
                f"{field}: {self._renamed_count} custom tools and tools of namespaces; the limit is"
                f" {RENAMED_TOOLS}",
                param=field,
            )

    @cached_property
    def _offered_names(self) -> dict[ToolName, str]:
        return assign_offered_names(tool.name for tool in self._tools)

    @cached_property
    def _offered_by_bare_name(self) -> dict[ToolName, list[str]]:
        by_bare_name: dict[ToolName, list[str]] = {}
        for name, offered in self._offered_names.items():
            by_bare_name.setdefault(name.bare, []).append(offered)
        return by_bare_name

    @property
    def renamed(self) -> dict[str, ToolName]:
        """The client's names of tools, by the different names under which a model calls them."""
        return {offered: name for name, offered in self._offered_names.items() if not name.is_plain}

    def offered_name(self, name: ToolName) -> str:
        """Return the name under which a model knows a tool, also one that is not offered now."""
        return self._offered_names.get(name, name.joined)

    def resolve(self, choice: str | dict[str, Any] | None) -> ResolvedTools:
        """Return which tools are offered and which have to be called. Raises InvalidRequest."""
        functions = [_as_function(self._offered_names[tool.name], tool) for tool in self._tools]
        if choice in (None, "auto"):
            return self._resolved(functions)
        if choice == "none":
            return self._resolved([])
        names = [function["function"]["name"] for function in functions]
        refuse_nothing_to_call(names, self.left_out)
        if choice == "required":
            return self._resolved(functions, tool_call_constraint(names, "tool_choice"))
        if isinstance(choice, str):
            raise unknown_type_error("tool_choice", choice, TOOL_CHOICES)
        return self._resolve_choice(choice, functions)

    def _resolve_choice(
        self, choice: dict[str, Any], functions: list[dict[str, Any]]
    ) -> ResolvedTools:
        kind = choice.get("type")
        refuse_hosted_choice(kind)
        if kind == "allowed_tools":
            allowed = convert_field(choice, ResponsesAllowedTools, "tool_choice")
            return self._resolve_allowed(allowed, functions)
        if kind not in ("function", "custom"):
            known = ("function", "custom", "allowed_tools")
            raise unknown_type_error("tool_choice.type", kind, known)
        chosen = convert_field(choice, ResponsesToolChoice, "tool_choice")
        forced = tool_call_constraint([self._find(chosen, "tool_choice")], "tool_choice")
        return self._resolved(functions, forced, one_call=True)

    def _resolve_allowed(
        self, allowed: ResponsesAllowedTools, functions: list[dict[str, Any]]
    ) -> ResolvedTools:
        names: dict[str, None] = {}
        own, hosted = split_hosted(allowed.tools, "tool_choice.tools")
        for field, tool in own:
            names[self._find(convert_field(tool, ResponsesToolChoice, field), field)] = None
        offered = [function for function in functions if function["function"]["name"] in names]
        if allowed.mode == "auto":
            return self._resolved(offered)
        refuse_nothing_to_call(names, types_of(hosted))
        return self._resolved(offered, tool_call_constraint(list(names), "tool_choice"))

    def _resolved(
        self,
        offered: list[dict[str, Any]],
        forced: ToolCallConstraint | None = None,
        *,
        one_call: bool = False,
    ) -> ResolvedTools:
        return ResolvedTools(offered, self._warnings(forced), forced, one_call)

    def _warnings(self, forced: ToolCallConstraint | None) -> list[str]:
        """Return what the client should know of its tools. A forced call fits its regex."""
        enforced = {None, "regex"} if forced is not None else {None}
        unenforced = {tool.grammar for tool in self._tools} - enforced
        return [*tools_warning(self.left_out), *([GRAMMAR_WARNING] if unenforced else [])]

    def _find(self, choice: ResponsesToolChoice, field: str) -> str:
        """Return the offered name of a chosen tool. Raises InvalidRequest for an unknown tool."""
        name = ToolName(choice.namespace, choice.name, choice.type == "custom")
        if name in self._offered_names:
            return self._offered_names[name]
        # OpenAI's reference has no namespace here: a name that only one tool has is accepted.
        if len(same := self._offered_by_bare_name.get(name, [])) == 1:
            return same[0]
        raise InvalidRequest(f"{field}: there is no tool {name.joined!r}", param=field)


def _parse_tools(declared: dict[str, Any], field: str) -> list[_DeclaredTool]:
    """Return a tool, or the tools of a namespace. Raises InvalidRequest."""
    if declared.get("type") != "namespace":
        return [_parse_tool(declared, field, TYPES)]
    namespace = convert_field(declared, NamespaceTool, field)
    tools = [
        _parse_tool(tool, f"{field}.tools[{i}]", TYPES[:2], namespace.name)
        for i, tool in enumerate(namespace.tools)
    ]
    if tools and namespace.description:
        # A template has no place for a namespace's description: show it with the first tool.
        descriptions = (namespace.description, tools[0].description)
        tools[0] = tools[0]._replace(description="\n\n".join(filter(None, descriptions)))
    return tools


def _parse_tool(
    declared: dict[str, Any], field: str, known: tuple[str, ...], namespace: str | None = None
) -> _DeclaredTool:
    match declared.get("type"):
        case "function":
            tool = convert_field(declared, FunctionTool, field)
            name = ToolName(namespace, tool.name, is_custom=False)
            return _DeclaredTool(name, tool.description or "", tool.parameters)
        case "custom":
            custom = convert_field(declared, CustomTool, field)
            name = ToolName(namespace, custom.name, is_custom=True)
            parameters = _custom_parameters(custom, field)
            return _DeclaredTool(name, custom.description or "", parameters, _grammar(custom))
        case None:
            raise InvalidRequest(f"{field}.type: is required", param=f"{field}.type")
        case other:
            raise unknown_type_error(f"{field}.type", other, known)


def _grammar(tool: CustomTool) -> str | None:
    """Return the syntax of a custom tool's grammar; None for a tool that takes any text."""
    is_grammar = tool.format is not None and tool.format.type == "grammar"
    return tool.format.syntax if tool.format is not None and is_grammar else None


def _custom_parameters(tool: CustomTool, field: str) -> dict[str, Any]:
    """Return the schema of the one text that a custom tool takes."""
    text: dict[str, Any] = {"type": "string"}
    format_ = tool.format
    if format_ is not None and format_.type == "grammar":
        syntax = require_field(format_.syntax, f"{field}.format.syntax")
        definition = require_field(format_.definition, f"{field}.format.definition")
        if syntax == "regex":
            text["pattern"] = f"^(?:{definition})$"
        else:
            text["description"] = f"A text of this Lark grammar:\n{definition}"
    return {"type": "object", "properties": {CUSTOM_INPUT: text}, "required": [CUSTOM_INPUT]}


def _as_function(offered_name: str, tool: _DeclaredTool) -> dict[str, Any]:
    """Return a tool as chat templates know it."""
    function = {
        "name": offered_name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {
        "type": "function",
        "function": {key: value for key, value in function.items() if value},
    }
