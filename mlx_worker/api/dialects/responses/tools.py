"""The tools of a response: functions, custom tools and namespaces, under the names a model calls.

A model is told of functions alone. A function or custom tool of a namespace is offered under the
joined name `NAMESPACE__NAME`, and a custom tool as a function with one text, `input`. A call comes
back to the client in the client's own form, by the names of this module. Source: OpenAI's API
reference, responses. [front]
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from mlx_worker.api.dialects.base import fitted
from mlx_worker.api.dialects.fields import Word, required
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
from mlx_worker.limits import RENAMED_TOOLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlx_worker.wire.request import ToolCallConstraint

TYPES: Final = ("function", "custom", "namespace")
_SHORTEST_DIGEST: Final = 8
CUSTOM_INPUT: Final = "input"
"""The one argument of a function that stands for a custom tool."""


GRAMMAR_TOLD: Final = (
    "tools: the model is told the grammars of custom tools, but is not held to them"
)


class FlatTool(msgspec.Struct, frozen=True):
    """A function that is offered."""

    type: Literal["function"]
    name: Word
    description: str | None = None
    parameters: dict[str, Any] | None = None


class CustomFormat(msgspec.Struct, frozen=True):
    """How the input of a custom tool is written."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomTool(msgspec.Struct, frozen=True):
    """A tool whose input is a text."""

    type: Literal["custom"]
    name: Word
    description: str | None = None
    format: CustomFormat | None = None


class NamespaceTool(msgspec.Struct, frozen=True):
    """A group of tools that share the first part of their names."""

    type: Literal["namespace"]
    name: Word
    tools: list[dict[str, Any]]
    description: str | None = None


class ChosenTool(msgspec.Struct, frozen=True):
    """The tool that has to be called, or that may be."""

    type: Literal["function", "custom"]
    name: Word
    namespace: Word | None = None


class AllowedTools(msgspec.Struct, frozen=True):
    """The only tools that may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class ToolName(msgspec.Struct, frozen=True, array_like=True):
    """The name of a tool as its client wrote it."""

    namespace: str | None
    name: str
    is_custom: bool

    @property
    def joined(self) -> str:
        """The name under which a model calls the tool, where no other tool has the same."""
        return self.name if self.namespace is None else f"{self.namespace}__{self.name}"

    @property
    def bare(self) -> ToolName:
        """The same name outside a namespace."""
        return ToolName(None, self.name, self.is_custom)

    @property
    def is_plain(self) -> bool:
        """True for a function outside a namespace, whose name is never changed."""
        return self.namespace is None and not self.is_custom


class _Tool(NamedTuple):
    """A tool as it will be offered, but for its name; `grammar` is the syntax of its input."""

    name: ToolName
    description: str
    parameters: dict[str, Any] | None
    grammar: str | None = None


class Tools:
    """The tools of one request; `left_out` are the types of hosted ones.

    All tools are added before a name is asked for.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._tools: list[_Tool] = []
        self._renamed = 0

    def add(self, asked: Sequence[dict[str, Any]], field: str) -> None:
        """Add the tools of one field. Raises InvalidRequest."""
        own, hosted = split_hosted(asked, field)
        self.left_out += types_of(hosted)
        tools = [read for place, tool in own for read in _read(tool, place)]
        self._tools += tools
        self._renamed += sum(not tool.name.is_plain for tool in tools)
        if self._renamed > RENAMED_TOOLS:
            raise InvalidRequest(
                f"{field}: {self._renamed} custom tools and tools of namespaces; at most"
                f" {RENAMED_TOOLS}",
                param=field,
            )

    @cached_property
    def _offered_as(self) -> dict[ToolName, str]:
        return _offered_names(tool.name for tool in self._tools)

    @cached_property
    def _of_one_name(self) -> dict[ToolName, list[str]]:
        same: dict[ToolName, list[str]] = {}
        for name, offered in self._offered_as.items():
            same.setdefault(name.bare, []).append(offered)
        return same

    @property
    def renamed(self) -> dict[str, ToolName]:
        """The client's names of tools that a model calls in another form."""
        return {offered: name for name, offered in self._offered_as.items() if not name.is_plain}

    def warnings(self, forced: ToolCallConstraint | None) -> list[str]:
        """Return what the client should know of its tools. Calls that are forced fit a regex."""
        grammars = {tool.grammar for tool in self._tools}
        kept = {None, "regex"} if forced is not None else {None}
        told = [GRAMMAR_TOLD] if grammars - kept else []
        return [*tools_warning(self.left_out), *told]

    def offered_name(self, name: ToolName) -> str:
        """Return the name under which a model knows a tool, also one that is not offered now."""
        return self._offered_as.get(name, name.joined)

    def chosen(self, choice: str | dict[str, Any] | None) -> Choice:
        """Return which tools are offered and which have to be called. Raises InvalidRequest."""
        functions = [_function(self._offered_as[tool.name], tool) for tool in self._tools]
        if choice in (None, "auto"):
            return Choice(functions)
        if choice == "none":
            return Choice([])
        names = [function["function"]["name"] for function in functions]
        refuse_nothing_to_call(names, self.left_out)
        if choice == "required":
            return Choice(functions, must_call(names, "tool_choice"))
        if isinstance(choice, str):
            raise unknown_type("tool_choice", choice, CHOICES)
        return self._chosen_by(choice, functions)

    def _chosen_by(self, choice: dict[str, Any], functions: list[dict[str, Any]]) -> Choice:
        kind = choice.get("type")
        refuse_hosted_choice(kind)
        if kind == "allowed_tools":
            return self._allowed(fitted(choice, AllowedTools, "tool_choice"), functions)
        if kind not in ("function", "custom"):
            known = ("function", "custom", "allowed_tools")
            raise unknown_type("tool_choice.type", kind, known)
        only = self._named(fitted(choice, ChosenTool, "tool_choice"), "tool_choice")
        return Choice(functions, must_call([only], "tool_choice"), one_call=True)

    def _allowed(self, asked: AllowedTools, functions: list[dict[str, Any]]) -> Choice:
        names: dict[str, None] = {}
        own, hosted = split_hosted(asked.tools, "tool_choice.tools")
        for place, tool in own:
            names[self._named(fitted(tool, ChosenTool, place), place)] = None
        allowed = [it for it in functions if it["function"]["name"] in names]
        if asked.mode == "auto":
            return Choice(allowed)
        refuse_nothing_to_call(names, types_of(hosted))
        return Choice(allowed, must_call(list(names), "tool_choice"))

    def _named(self, asked: ChosenTool, field: str) -> str:
        """Return the offered name of a chosen tool. Raises InvalidRequest for an unknown one."""
        name = ToolName(asked.namespace, asked.name, asked.type == "custom")
        if name in self._offered_as:
            return self._offered_as[name]
        # OpenAI's reference has no namespace here: a name that only one tool has will do.
        if len(same := self._of_one_name.get(name, [])) == 1:
            return same[0]
        raise InvalidRequest(f"{field}: there is no tool {name.joined!r}", param=field)


class Choice(NamedTuple):
    """What `tool_choice` makes of the tools."""

    offered: list[dict[str, Any]]
    forced: ToolCallConstraint | None = None
    one_call: bool = False


def _read(asked: dict[str, Any], place: str) -> list[_Tool]:
    """Return a tool, or the tools of a namespace. Raises InvalidRequest."""
    if asked.get("type") != "namespace":
        return [_read_tool(asked, place, TYPES)]
    space = fitted(asked, NamespaceTool, place)
    inner = [
        _read_tool(tool, f"{place}.tools[{i}]", TYPES[:2], space.name)
        for i, tool in enumerate(space.tools)
    ]
    if inner and space.description:
        # A template has no place for what a namespace says of itself: its first tool tells it.
        told = "\n\n".join(filter(None, (space.description, inner[0].description)))
        inner[0] = inner[0]._replace(description=told)
    return inner


def _read_tool(
    asked: dict[str, Any], place: str, known: tuple[str, ...], namespace: str | None = None
) -> _Tool:
    match asked.get("type"):
        case "function":
            tool = fitted(asked, FlatTool, place)
            name = ToolName(namespace, tool.name, is_custom=False)
            return _Tool(name, tool.description or "", tool.parameters)
        case "custom":
            custom = fitted(asked, CustomTool, place)
            name = ToolName(namespace, custom.name, is_custom=True)
            parameters = _custom_parameters(custom, place)
            return _Tool(name, custom.description or "", parameters, _grammar(custom))
        case None:
            raise InvalidRequest(f"{place}.type: is required", param=f"{place}.type")
        case other:
            raise unknown_type(f"{place}.type", other, known)


def _grammar(tool: CustomTool) -> str | None:
    """Return the syntax of a custom tool's grammar; None for a tool that takes any text."""
    is_grammar = tool.format is not None and tool.format.type == "grammar"
    return tool.format.syntax if tool.format is not None and is_grammar else None


def _custom_parameters(tool: CustomTool, place: str) -> dict[str, Any]:
    """Return the schema of the one text that a custom tool takes."""
    text: dict[str, Any] = {"type": "string"}
    form = tool.format
    if form is not None and form.type == "grammar":
        syntax = required(form.syntax, f"{place}.format.syntax")
        definition = required(form.definition, f"{place}.format.definition")
        if syntax == "regex":
            text["pattern"] = f"^(?:{definition})$"
        else:
            text["description"] = f"A text of this Lark grammar:\n{definition}"
    return {"type": "object", "properties": {CUSTOM_INPUT: text}, "required": [CUSTOM_INPUT]}


def _function(offered: str, tool: _Tool) -> dict[str, Any]:
    said = {"name": offered, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {key: it for key, it in said.items() if it}}


def _offered_names(names: Iterable[ToolName]) -> dict[ToolName, str]:
    """Return the name under which each tool is offered, no two of them the same.

    Where different tools have one joined name, all but a plain function get a digest behind theirs:
    so a tool's name does not depend on the order of the tools, and a prefix stays the same.
    """
    different = dict.fromkeys(names)
    wanted = Counter(name.joined for name in different)
    return {
        name: name.joined
        if name.is_plain or wanted[name.joined] == 1
        else _told_apart(name, wanted)
        for name in different
    }


def _told_apart(name: ToolName, taken: Counter[str]) -> str:
    digest = hashlib.sha256(msgspec.json.encode(name)).hexdigest()
    lengths = range(_SHORTEST_DIGEST, len(digest) + 1)
    return next(made for size in lengths if (made := f"{name.joined}_{digest[:size]}") not in taken)
