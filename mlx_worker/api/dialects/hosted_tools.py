"""Leave out the tools that a server runs by itself, with a warning in the response.

This node runs no tools. A model that is not shown a hosted tool answers without the tool, so such a
tool is left out and the response carries a warning; only a `tool_choice` that names one is refused.
Tools that a model knows by their type alone, without a schema (`bash_20250124`, `local_shell`), are
left out too: a local model was not trained on them. Sources: OpenAI's reference of responses,
Anthropic's of messages.

[front]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlx_worker.errors import UnsupportedField
from mlx_worker.validation import named

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mlx_worker.wire.request import ToolCallConstraint

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
"""A family's name, followed by the date of the tool's version if the type has one."""

TOOL_CHOICES: Final = ("none", "auto", "required")
"""The strings that OpenAI's dialects accept as a `tool_choice`."""

MAX_NAMED_TYPES: Final = 20
"""Types that one warning names."""


class ResolvedTools(NamedTuple):
    """The result of `tools` and `tool_choice`: what is offered, and what has to be called."""

    offered: list[dict[str, Any]]
    warnings: list[str] = []  # noqa: RUF012
    forced: ToolCallConstraint | None = None
    one_call: bool = False


def is_hosted(kind: object) -> bool:
    """Return True if a server runs tools of this type, or if they have no schema."""
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
    """Return the warning that tools of these types are left out; [] for none."""
    return _warning("tools: left out, because this node runs no hosted tools", kinds)


def history_warning(field: str, kinds: Iterable[str]) -> list[str]:
    """Return the warning that parts of a conversation are left out; [] for none."""
    return _warning(f"{field}: left out, because only their own server can read them", kinds)


def unknown_type_error(field: str, kind: Any, known: Iterable[str]) -> UnsupportedField:
    """Return the refusal of a type that is not among the `known` types."""
    return UnsupportedField(
        f"{field}: {named(kind)} is not one of {', '.join(map(repr, known))}", param=field
    )


def refuse_hosted_choice(kind: object) -> None:
    """Raise UnsupportedField for a `tool_choice` of a hosted type."""
    if is_hosted(kind):
        raise hosted_choice_error(str(kind))


def hosted_choice_error(tool: str) -> UnsupportedField:
    """Return the refusal of a `tool_choice` that names a hosted tool."""
    return UnsupportedField(
        f"tool_choice: {tool!r} is a hosted tool, and this node runs no hosted tools",
        param="tool_choice",
    )


def refuse_nothing_to_call(offered: Collection[Any], left_out: Collection[str]) -> None:
    """Raise UnsupportedField if a call is required and all tools were left out."""
    if left_out and not offered:
        raise UnsupportedField(
            f"tool_choice: there is no tool to call; {tools_warning(left_out)[0]}",
            param="tool_choice",
        )


def _warning(sentence: str, kinds: Iterable[str]) -> list[str]:
    distinct = list(dict.fromkeys(kinds))
    if not distinct:
        return []
    more = len(distinct) - MAX_NAMED_TYPES
    listed = [*distinct[:MAX_NAMED_TYPES], *([f"{more} more types"] if more > 0 else [])]
    return [f"{sentence}: {', '.join(listed)}"]
