"""The tools of a chat completion: which are offered, and which have to be called. [front]"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from mlx_worker.api.dialects.base import fitted
from mlx_worker.api.dialects.fields import Word
from mlx_worker.api.dialects.hosted_tools import (
    CHOICES,
    refuse_hosted_choice,
    refuse_nothing_to_call,
    split_hosted,
    tools_warning,
    types_of,
    unknown_type,
)
from mlx_worker.api.dialects.structured_output import must_call
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.request import ToolCallConstraint


class ChosenFunction(msgspec.Struct, frozen=True):
    """A function's name."""

    name: Word


class ChosenTool(msgspec.Struct, frozen=True):
    """The tool that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


class AllowedFunctions(msgspec.Struct, frozen=True):
    """The only functions that may be called."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class AllowedTools(msgspec.Struct, frozen=True):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


class Function(msgspec.Struct, frozen=True):
    """What a tool must say of itself; the rest is between the caller and the template."""

    name: Word
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that is offered; there are only functions."""

    type: Literal["function"]
    function: Function


class Choice(NamedTuple):
    """What `tools` and `tool_choice` come to."""

    offered: list[dict[str, Any]]
    warnings: list[str]
    forced: ToolCallConstraint | None = None
    one_call: bool = False


def chosen(
    asked: list[dict[str, Any]], choice: str | dict[str, Any] | None, hosted: Sequence[str]
) -> Choice:
    """Return which tools are offered, as the caller wrote them, and which have to be called.

    `hosted` are tools that other fields ask for. Templates show functions word for word. Raises
    InvalidRequest, which names the field.
    """
    tools, left_out = _functions(asked)
    left_out = [*hosted, *left_out]
    all_offered = Choice(tools, tools_warning(left_out))
    if choice in (None, "auto"):
        return all_offered
    if choice == "none":
        return all_offered._replace(offered=[])
    names = [tool["function"]["name"] for tool in tools]
    refuse_nothing_to_call(names, left_out)
    if choice == "required":
        return all_offered._replace(forced=must_call(names, "tool_choice"))
    if isinstance(choice, str):
        raise unknown_type("tool_choice", choice, CHOICES)
    kind = choice.get("type")
    refuse_hosted_choice(kind)
    if kind == "allowed_tools":
        return _allowed(fitted(choice, AllowedTools, "tool_choice").allowed_tools, all_offered)
    if kind != "function":
        raise unknown_type("tool_choice.type", kind, ["function", "allowed_tools"])
    only = fitted(choice, ChosenTool, "tool_choice").function.name
    return all_offered._replace(forced=must_call(names, "tool_choice", only), one_call=True)


def _functions(asked: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the functions, and the types of the tools that are left out."""
    own, hosted = split_hosted(asked, "tools")
    for place, tool in own:
        if (kind := tool.get("type")) not in (None, "function"):
            raise unknown_type(f"{place}.type", kind, ["function"])
        fitted(tool, Tool, place)
    return [tool for _, tool in own], types_of(hosted)


def _allowed(asked: AllowedFunctions, all_offered: Choice) -> Choice:
    known = {tool["function"]["name"] for tool in all_offered.offered}
    names: dict[str, None] = {}
    own, hosted = split_hosted(asked.tools, "tool_choice.allowed_tools.tools")
    for place, tool in own:
        name = fitted(tool, ChosenTool, place).function.name
        if name not in known:
            raise InvalidRequest(f"{place}: there is no tool {name!r}", param=place)
        names[name] = None
    offered = [tool for tool in all_offered.offered if tool["function"]["name"] in names]
    allowed = all_offered._replace(offered=offered)
    if asked.mode == "auto":
        return allowed
    refuse_nothing_to_call(names, types_of(hosted))
    return allowed._replace(forced=must_call([*names], "tool_choice"))
