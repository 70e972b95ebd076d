"""Tools that a server runs by itself, and what is told of those that a request names.

This node runs no tools. A model that is not told of a hosted tool answers without the tool, so such
a tool is left out and the answer carries a warning; only a `tool_choice` that names one is refused.
Tools that a model knows by their type alone, without a schema (`bash_20250124`, `local_shell`), are
left out too: a local model was not trained on them. Sources: OpenAI's reference of responses,
Anthropic's of messages. [front]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import UnsupportedField
from mlx_worker.validation import named

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_FAMILIES: Final = (
    "advisor",
    "apply_patch",
    "bash",
    "browser_toolset",
    "code_execution",
    "code_interpreter",
    "computer",
    "computer_toolset",
    "computer_use",
    "computer_use_preview",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "mcp_toolset",
    "memory",
    "programmatic_tool_calling",
    "shell",
    "text_editor",
    "tool_search",
    "tool_search_tool_bm25",
    "tool_search_tool_regex",
    "web_fetch",
    "web_search",
    "web_search_preview",
)
_HOSTED: Final = re.compile(rf"(?:{'|'.join(_FAMILIES)})(?:_\d{{8}}|_\d{{4}}_\d{{2}}_\d{{2}})?")
"""A family's name, and behind it the day of the tool's version where the type has one."""

CHOICES: Final = ("none", "auto", "required")
"""The words that OpenAI's dialects know as a `tool_choice`."""

MOST_NAMED: Final = 20
"""Types that one warning names."""


def is_hosted(kind: object) -> bool:
    """Return True for the type of a tool that a server runs, or that has no schema."""
    return isinstance(kind, str) and _HOSTED.fullmatch(kind) is not None


def split_hosted(
    tools: Iterable[dict[str, Any]], field: str
) -> tuple[list[tuple[str, dict[str, Any]]], list[dict[str, Any]]]:
    """Return the caller's own tools, each with its place in `field`, and the hosted tools."""
    own: list[tuple[str, dict[str, Any]]] = []
    hosted: list[dict[str, Any]] = []
    for i, tool in enumerate(tools):
        if is_hosted(tool.get("type")):
            hosted.append(tool)
        else:
            own.append((f"{field}[{i}]", tool))
    return own, hosted


def types_of(hosted: Iterable[dict[str, Any]]) -> list[str]:
    """Return the types of hosted tools, for the warning of what is left out."""
    return [str(tool["type"]) for tool in hosted]


def tools_warning(kinds: Iterable[str]) -> list[str]:
    """Return the warning of tools of these types that are left out; [] where there are none."""
    return _warning("tools: left out, because this node runs no tools of its own", kinds)


def history_warning(field: str, kinds: Iterable[str]) -> list[str]:
    """Return the warning of parts of a conversation that are left out; [] for none."""
    return _warning(f"{field}: left out, because only their own server can read them", kinds)


def unknown_type(field: str, kind: Any, known: Iterable[str]) -> UnsupportedField:
    """Return the refusal of a type that is not among the `known` ones; `field` is its place."""
    return UnsupportedField(
        f"{field}: {named(kind)} is not one of {', '.join(map(repr, known))}", param=field
    )


def refuse_hosted_choice(kind: object) -> None:
    """Raise UnsupportedField for a `tool_choice` of a hosted type."""
    if is_hosted(kind):
        raise hosted_choice(str(kind))


def hosted_choice(tool: str) -> UnsupportedField:
    """Return the refusal of a `tool_choice` that names a hosted tool."""
    return UnsupportedField(
        f"tool_choice: {tool!r} is a tool of the server's own, and this node runs none",
        param="tool_choice",
    )


def refuse_nothing_to_call(offered: Collection[Any], left_out: Collection[str]) -> None:
    """Raise UnsupportedField for calls that are required of tools that were all left out."""
    if left_out and not offered:
        raise UnsupportedField(
            f"tool_choice: there are no tools to call; {tools_warning(left_out)[0]}",
            param="tool_choice",
        )


def _warning(sentence: str, kinds: Iterable[str]) -> list[str]:
    different = list(dict.fromkeys(kinds))
    if not different:
        return []
    more = len(different) - MOST_NAMED
    listed = [*different[:MOST_NAMED], *([f"{more} more types"] if more > 0 else [])]
    return [f"{sentence}: {', '.join(listed)}"]
