"""Items of earlier responses that are neither messages nor calls of functions.

A client sends its whole history with every request, items of another server's tools included, so
none of them may end the session. A call with a result in words becomes a call and its result; the
others are left out, and the answer says so. Source: OpenAI's API reference, responses. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.api.dialects.fields import check_portable, required

if TYPE_CHECKING:
    from mlx_worker.api.dialects.conversation import Turns
    from mlx_worker.api.dialects.responses.request import Item

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
"""Types of items that are left out of what a model reads."""

WITH_TOOLS: Final = frozenset({"additional_tools", "tool_search_output"})
"""Types of items whose `tools` are offered beside those of the request; nothing else is in them."""

_CALLS: Final = {
    "local_shell_call": "local_shell",
    "shell_call": "shell",
    "apply_patch_call": "apply_patch",
}
_OUTPUTS: Final = frozenset({f"{kind}_output" for kind in _CALLS})

TYPES: Final = (*_CALLS, *_OUTPUTS, "mcp_call")
"""Types of items that become calls, and results of calls."""


def tell(turns: Turns, item: Item, at: str) -> None:
    """Add an item of `TYPES` to a conversation. Raises InvalidRequest."""
    if item.kind == "mcp_call":
        name = f"{required(item.server_label, f'{at}.server_label')}__{item.name or ''}"
        call_id = required(item.id, f"{at}.id")
        turns.called(call_id, name, text_of_value(item.arguments, at) or "{}")
        turns.answered(
            call_id, text_of_value(item.output if item.output is not None else item.error, at)
        )
        return
    call_id = required(item.call_id or item.id, f"{at}.call_id")
    if item.kind in _OUTPUTS:
        turns.answered(call_id, text_of_value(item.output, at))
    else:
        turns.called(
            call_id, _CALLS[item.kind], text_of_value(item.action or item.operation, at) or "{}"
        )


def text_of_value(value: Any, at: str) -> str:
    """Return a text as it is, and any other value as JSON. Raises InvalidRequest."""
    if value is None or isinstance(value, str):
        return value or ""
    check_portable(at, value)
    return msgspec.json.encode(value).decode()
