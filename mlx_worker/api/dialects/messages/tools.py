"""The tools of a message: which are offered, and which have to be called. [front]"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from mlx_worker.api.dialects.base import fitted
from mlx_worker.api.dialects.fields import Word, required
from mlx_worker.api.dialects.hosted_tools import (
    hosted_choice,
    refuse_nothing_to_call,
    split_hosted,
    tools_warning,
    types_of,
    unknown_type,
)
from mlx_worker.api.dialects.structured_output import must_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.request import ToolCallConstraint


class Tool(msgspec.Struct, frozen=True):
    """A tool that is offered: the caller's own."""

    name: Word
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether tools may or have to be called, which one, and how many at a time."""

    type: Literal["auto", "none", "any", "tool"]
    name: Word | None = None
    disable_parallel_tool_use: bool | None = None


class Choice(NamedTuple):
    """What `tools` and `tool_choice` come to."""

    offered: list[dict[str, Any]]
    warnings: list[str]
    one_call: bool
    forced: ToolCallConstraint | None


def chosen(asked: list[dict[str, Any]], choice: ToolChoice, hosted: Sequence[str]) -> Choice:
    """Return which tools are offered and which have to be called. Raises InvalidRequest.

    `hosted` are tools that other fields ask for.
    """
    placed, of_server = split_hosted(asked, "tools")
    for place, tool in placed:
        if (kind := tool.get("type")) not in (None, "custom"):
            raise unknown_type(f"{place}.type", kind, ["custom"])
        fitted(tool, Tool, place)
    own = [tool for _, tool in placed]
    left_out = [*hosted, *types_of(of_server)]
    hosted_names = {str(tool.get("name")) for tool in of_server}
    names = [tool["name"] for tool in own]
    if choice.name is not None and choice.name in hosted_names and choice.name not in names:
        raise hosted_choice(choice.name)
    return Choice(
        [] if choice.type == "none" else [_as_function(tool) for tool in own],
        tools_warning(left_out),
        choice.disable_parallel_tool_use is True or choice.type == "tool",
        _forced(choice, names, left_out),
    )


def _forced(choice: ToolChoice, names: list[str], left_out: list[str]) -> ToolCallConstraint | None:
    if choice.type in ("auto", "none"):
        return None
    refuse_nothing_to_call(names, left_out)
    only = required(choice.name, "tool_choice.name") if choice.type == "tool" else None
    return must_call(names, "tool_choice", only)


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool as chat templates know it."""
    said = {key: tool[key] for key in ("name", "description") if tool.get(key)}
    return {
        "type": "function",
        "function": said | {"parameters": tool.get("input_schema") or {}},
    }
