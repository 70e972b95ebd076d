"""The tools of a message: which are offered, and which have to be called.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlx_worker.api.dialects.decoding import convert_field
from mlx_worker.api.dialects.fields import ShortText, require_field
from mlx_worker.api.dialects.hosted_tools import (
    ResolvedTools,
    hosted_choice_error,
    refuse_nothing_to_call,
    split_hosted,
    tools_warning,
    types_of,
    unknown_type_error,
)
from mlx_worker.api.dialects.structured_output import tool_call_constraint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.request import ToolCallConstraint


class MessagesTool(msgspec.Struct, frozen=True):
    """A tool that is offered, of the caller's own."""

    name: ShortText
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class MessagesToolChoice(msgspec.Struct, frozen=True):
    """Whether tools may or have to be called, which tool, and how many at a time."""

    type: Literal["auto", "none", "any", "tool"]
    name: ShortText | None = None
    disable_parallel_tool_use: bool | None = None


def resolve_messages_tools(
    declared: list[dict[str, Any]], choice: MessagesToolChoice, hosted: Sequence[str]
) -> ResolvedTools:
    """Return which tools are offered and which have to be called. Raises InvalidRequest.

    `hosted` are tools that other fields ask for.
    """
    own, server_tools = split_hosted(declared, "tools")
    for field, tool in own:
        if (kind := tool.get("type")) not in (None, "custom"):
            raise unknown_type_error(f"{field}.type", kind, ["custom"])
        convert_field(tool, MessagesTool, field)
    custom = [tool for _, tool in own]
    left_out = [*hosted, *types_of(server_tools)]
    hosted_names = {str(tool.get("name")) for tool in server_tools}
    names = [tool["name"] for tool in custom]
    if choice.name is not None and choice.name in hosted_names and choice.name not in names:
        raise hosted_choice_error(choice.name)
    return ResolvedTools(
        offered=[] if choice.type == "none" else [_as_function(tool) for tool in custom],
        warnings=tools_warning(left_out),
        forced=_forced_calls(choice, names, left_out),
        one_call=choice.disable_parallel_tool_use is True or choice.type == "tool",
    )


def _forced_calls(
    choice: MessagesToolChoice, names: list[str], left_out: list[str]
) -> ToolCallConstraint | None:
    if choice.type in ("auto", "none"):
        return None
    refuse_nothing_to_call(names, left_out)
    name = require_field(choice.name, "tool_choice.name") if choice.type == "tool" else None
    return tool_call_constraint(names, "tool_choice", name)


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool as chat templates know it."""
    function = {key: tool[key] for key in ("name", "description") if tool.get(key)}
    return {
        "type": "function",
        "function": function | {"parameters": tool.get("input_schema") or {}},
    }
