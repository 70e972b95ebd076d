"""The tools of a chat completion: which are offered, and which have to be called.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlx_worker.api.dialects.decoding import convert_field
from mlx_worker.api.dialects.fields import ShortText
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
from mlx_worker.api.dialects.structured_output import tool_call_constraint
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChatFunctionName(msgspec.Struct, frozen=True):
    """A function's name."""

    name: ShortText


class ChatToolChoice(msgspec.Struct, frozen=True):
    """The tool that has to be called."""

    type: Literal["function"]
    function: ChatFunctionName


class ChatAllowedFunctions(msgspec.Struct, frozen=True):
    """The only functions that may be called."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class ChatAllowedTools(msgspec.Struct, frozen=True):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: ChatAllowedFunctions


class ChatFunction(msgspec.Struct, frozen=True):
    """The required fields of a function; its other fields are only read by the template."""

    name: ShortText
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(msgspec.Struct, frozen=True):
    """A tool that is offered; the only type is `function`."""

    type: Literal["function"]
    function: ChatFunction


def resolve_chat_tools(
    declared: list[dict[str, Any]],
    choice: str | dict[str, Any] | None,
    hosted: Sequence[str],
) -> ResolvedTools:
    """Return which tools are offered, as the caller wrote them, and which have to be called.

    `hosted` are tools that other fields ask for. Templates show functions word for word. Raises
    InvalidRequest, which names the field.
    """
    tools, left_out = _functions(declared)
    left_out = [*hosted, *left_out]
    all_offered = ResolvedTools(tools, tools_warning(left_out))
    if choice in (None, "auto"):
        return all_offered
    if choice == "none":
        return all_offered._replace(offered=[])
    names = [tool["function"]["name"] for tool in tools]
    refuse_nothing_to_call(names, left_out)
    if choice == "required":
        return all_offered._replace(forced=tool_call_constraint(names, "tool_choice"))
    if isinstance(choice, str):
        raise unknown_type_error("tool_choice", choice, TOOL_CHOICES)
    kind = choice.get("type")
    refuse_hosted_choice(kind)
    if kind == "allowed_tools":
        allowed = convert_field(choice, ChatAllowedTools, "tool_choice").allowed_tools
        return _resolve_allowed(allowed, all_offered)
    if kind != "function":
        raise unknown_type_error("tool_choice.type", kind, ["function", "allowed_tools"])
    name = convert_field(choice, ChatToolChoice, "tool_choice").function.name
    forced = tool_call_constraint(names, "tool_choice", name)
    return all_offered._replace(forced=forced, one_call=True)


def _functions(declared: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the functions, and the types of the hosted tools."""
    own, hosted = split_hosted(declared, "tools")
    for field, tool in own:
        if (kind := tool.get("type")) not in (None, "function"):
            raise unknown_type_error(f"{field}.type", kind, ["function"])
        convert_field(tool, ChatTool, field)
    return [tool for _, tool in own], types_of(hosted)


def _resolve_allowed(allowed: ChatAllowedFunctions, all_offered: ResolvedTools) -> ResolvedTools:
    known = {tool["function"]["name"] for tool in all_offered.offered}
    names: dict[str, None] = {}
    own, hosted = split_hosted(allowed.tools, "tool_choice.allowed_tools.tools")
    for field, tool in own:
        name = convert_field(tool, ChatToolChoice, field).function.name
        if name not in known:
            raise InvalidRequest(f"{field}: there is no tool {name!r}", param=field)
        names[name] = None
    offered = [tool for tool in all_offered.offered if tool["function"]["name"] in names]
    resolved = all_offered._replace(offered=offered)
    if allowed.mode == "auto":
        return resolved
    refuse_nothing_to_call(names, types_of(hosted))
    return resolved._replace(forced=tool_call_constraint([*names], "tool_choice"))
