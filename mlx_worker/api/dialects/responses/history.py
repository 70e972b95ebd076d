"""Turn the items of `POST /v1/responses` into a conversation that templates know.

A client sends its whole history with every request, items of another server's tools included, so
none of them may end the session. A call with a result in text becomes a call and its result; other
items of hosted tools are left out, and the response says so. Source: OpenAI's API reference,
responses.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.api.dialects.conversation import ConversationBuilder
from mlx_worker.api.dialects.decoding import convert_field
from mlx_worker.api.dialects.fields import check_encodable, require_field
from mlx_worker.api.dialects.hosted_tools import unknown_type_error
from mlx_worker.api.dialects.large_numbers import arguments_text
from mlx_worker.api.dialects.responses.items import (
    InputItem,
    InputPart,
    ItemContent,
    last_user_item,
    parts_text,
)
from mlx_worker.api.dialects.responses.tool_names import ToolName
from mlx_worker.api.dialects.responses.tools import CUSTOM_INPUT

if TYPE_CHECKING:
    from mlx_worker.api.dialects.responses.tools import ToolCatalog

LEFT_OUT: Final = frozenset(
    {
        "code_interpreter_call",
        "compaction",
        "compaction_summary",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "context_compaction",
        "file_search_call",
        "ghost_snapshot",
        "image_generation_call",
        "item_reference",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_list_tools",
        "program",
        "program_output",
        "tool_search_call",
        "web_search_call",
    }
)
"""Types of items that are left out of the conversation."""

TOOL_ITEMS: Final = frozenset({"additional_tools", "tool_search_output"})
"""Types of items whose `tools` are offered beside those of the request; nothing else is in them."""

_HOSTED_CALLS: Final = {
    "local_shell_call": "local_shell",
    "shell_call": "shell",
    "apply_patch_call": "apply_patch",
}
_HOSTED_OUTPUTS: Final = frozenset({f"{kind}_output" for kind in _HOSTED_CALLS})
_HOSTED_ITEMS: Final = (*_HOSTED_CALLS, *_HOSTED_OUTPUTS, "mcp_call")

_KNOWN_TYPES: Final = (
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    *_HOSTED_ITEMS,
)
"""Types of items that become part of the conversation."""


def build_conversation(
    instructions: str | None, items: str | list[InputItem], catalog: ToolCatalog
) -> tuple[ConversationBuilder, list[str]]:
    """Return the conversation, and the types of items that are left out. Raises InvalidRequest."""
    conversation = ConversationBuilder()
    left_out: list[str] = []
    if instructions:
        conversation.add_text("system", instructions)
    if isinstance(items, str):
        conversation.add_text("user", items)
        return conversation, left_out
    last_user = last_user_item(items)
    for i, item in enumerate(items):
        if item.kind in LEFT_OUT:
            left_out.append(item.kind)
        elif item.kind not in TOOL_ITEMS:
            _add_item(conversation, item, f"input[{i}]", catalog, is_last_user=i == last_user)
    return conversation, left_out


def _add_item(
    conversation: ConversationBuilder,
    item: InputItem,
    at: str,
    catalog: ToolCatalog,
    *,
    is_last_user: bool,
) -> None:
    match item.kind:
        case "message":
            role = require_field(item.role, f"{at}.role")
            text = parts_text(item.content, f"{at}.content", is_last_user=is_last_user)
            conversation.add_text("system" if role == "developer" else role, text)
        case "reasoning":
            text = parts_text(item.content or item.summary or [], f"{at}.content")
            conversation.add_reasoning(text)
        case "function_call":
            call_id = require_field(item.call_id, f"{at}.call_id")
            arguments = arguments_text(item.arguments, f"{at}.arguments")
            conversation.add_tool_call(call_id, _offered_name(item, at, catalog), arguments)
        case "custom_tool_call":
            call_id = require_field(item.call_id, f"{at}.call_id")
            text = require_field(item.input, f"{at}.input")
            arguments = msgspec.json.encode({CUSTOM_INPUT: text}).decode()
            conversation.add_tool_call(call_id, _offered_name(item, at, catalog), arguments)
        case "function_call_output" | "custom_tool_call_output":
            call_id = require_field(item.call_id, f"{at}.call_id")
            conversation.add_tool_result(
                call_id, parts_text(_output_content(item, at), f"{at}.output")
            )
        case kind if kind in _HOSTED_ITEMS:
            _add_hosted_item(conversation, item, at)
        case other:
            raise unknown_type_error(f"{at}.type", other, _KNOWN_TYPES)


def _add_hosted_item(conversation: ConversationBuilder, item: InputItem, at: str) -> None:
    """Add a call of another server's tool, or its result, to a conversation."""
    if item.kind == "mcp_call":
        name = f"{require_field(item.server_label, f'{at}.server_label')}__{item.name or ''}"
        call_id = require_field(item.id, f"{at}.id")
        conversation.add_tool_call(call_id, name, _value_text(item.arguments, at) or "{}")
        result = item.output if item.output is not None else item.error
        conversation.add_tool_result(call_id, _value_text(result, at))
        return
    call_id = require_field(item.call_id or item.id, f"{at}.call_id")
    if item.kind in _HOSTED_OUTPUTS:
        conversation.add_tool_result(call_id, _value_text(item.output, at))
    else:
        arguments = _value_text(item.action or item.operation, at) or "{}"
        conversation.add_tool_call(call_id, _HOSTED_CALLS[item.kind], arguments)


def _output_content(item: InputItem, at: str) -> ItemContent:
    """Return the result of a call: parts, or any other value as text."""
    if isinstance(item.output, list):
        return convert_field(item.output, list[InputPart], f"{at}.output")
    return _value_text(require_field(item.output, f"{at}.output"), f"{at}.output")


def _offered_name(item: InputItem, at: str, catalog: ToolCatalog) -> str:
    """Return the name under which the model knows the called tool."""
    name = require_field(item.name, f"{at}.name")
    is_custom = item.kind == "custom_tool_call"
    return catalog.offered_name(ToolName(item.namespace or None, name, is_custom))


def _value_text(value: Any, field: str) -> str:
    """Return a text as it is, and any other value as JSON. Raises InvalidRequest."""
    if value is None or isinstance(value, str):
        return value or ""
    check_encodable(field, value)
    return msgspec.json.encode(value).decode()
