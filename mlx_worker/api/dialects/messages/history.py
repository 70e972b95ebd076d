"""Turn the messages of `POST /v1/messages` into a conversation that templates know.

Blocks of a server's own tools are left out, and the response says so. Source: Anthropic's API
reference, messages.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from mlx_worker.api.dialects.attachments import PARAGRAPH, SpeakerRole, last_user_message
from mlx_worker.api.dialects.conversation import ConversationBuilder
from mlx_worker.api.dialects.fields import require_field
from mlx_worker.api.dialects.large_numbers import arguments_text, encodable_arguments
from mlx_worker.api.dialects.messages.blocks import (
    READABLE_TYPES,
    ReadableBlock,
    TextBlock,
    block_text,
    tool_result_text,
)
from mlx_worker.errors import UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Sequence

LEFT_OUT: Final = frozenset(
    {
        "advisor_tool_result",
        "bash_code_execution_tool_result",
        "code_execution_tool_result",
        "fallback",
        "mcp_tool_listing",
        "server_tool_use",
        "text_editor_code_execution_tool_result",
        "tool_addition",
        "tool_removal",
        "tool_search_tool_result",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)
"""Blocks of hosted tools in earlier messages, which a model is not shown."""

_RESULT_ROLES: Final = {"tool_result": "user", "mcp_tool_result": "assistant"}
"""The role whose message has the result of a tool: the caller's, or that of the server that ran the
tool."""


class InputBlock(ReadableBlock, frozen=True):
    """One block of a message; its type says which fields it needs."""

    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    server_name: str | None = None


class InputMessage(msgspec.Struct, frozen=True):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[InputBlock]


def _last_user_turn(messages: Sequence[InputMessage]) -> int | None:
    """Return the index of the user's last message; None if there is none.

    An assistant's last message begins the answer, and is no message before it.
    """
    has_prefill = bool(messages) and messages[-1].role == "assistant"
    return last_user_message([*map(_speaker, messages[:-1] if has_prefill else messages)])


def _speaker(message: InputMessage) -> SpeakerRole:
    content = message.content
    if isinstance(content, str) or all(block.type != "tool_result" for block in content):
        return message.role
    return "tool"


def build_conversation(
    messages: list[InputMessage], system: str | list[TextBlock]
) -> tuple[ConversationBuilder, list[str]]:
    """Return the conversation, and the types of blocks that are left out. Raises InvalidRequest."""
    conversation = ConversationBuilder(join_user_messages=True)
    left_out: list[str] = []
    if system_text := _system_text(system):
        conversation.add_text("system", system_text)
    last_user = _last_user_turn(messages)
    for i, message in enumerate(messages):
        if isinstance(message.content, str):
            conversation.add_text(message.role, message.content)
        else:
            at = f"messages[{i}].content"
            left_out += _add_blocks(
                conversation, message.role, message.content, at, is_last_user=i == last_user
            )
    return conversation, left_out


def _system_text(content: str | list[TextBlock]) -> str:
    if isinstance(content, str):
        return content
    for k, block in enumerate(content):
        if block.type != "text":
            raise UnsupportedField(
                f"system[{k}]: blocks of type {block.type!r} are not supported, only 'text'",
                param=f"system[{k}]",
            )
        require_field(block.text, f"system[{k}].text")
    return PARAGRAPH.join(block.text or "" for block in content)


def _add_blocks(
    conversation: ConversationBuilder,
    role: str,
    blocks: list[InputBlock],
    at: str,
    *,
    is_last_user: bool,
) -> list[str]:
    """Add a message's blocks to a conversation; return the types of blocks that are left out."""
    left_out: list[str] = []
    texts: list[str] = []
    for k, block in enumerate(blocks):
        field = f"{at}[{k}]"
        if block.type in READABLE_TYPES and role != "assistant":
            texts.append(block_text(block, field, is_last_user=is_last_user))
        elif block.type in LEFT_OUT:
            left_out.append(block.type)
        else:
            _add_block(conversation, block, role, field)
    if texts:
        conversation.add_text(role, PARAGRAPH.join(filter(None, texts)))
    return left_out


def _add_block(conversation: ConversationBuilder, block: InputBlock, role: str, field: str) -> None:
    match block.type:
        case kind if kind in READABLE_TYPES:
            conversation.add_text(role, block_text(block, field))
        case "thinking" if role == "assistant":
            conversation.add_reasoning(require_field(block.thinking, f"{field}.thinking"))
        case "redacted_thinking" if role == "assistant":
            pass  # only the server that wrote it can read it
        case "tool_use" | "mcp_tool_use" if role == "assistant":
            name = require_field(block.name, f"{field}.name")
            if block.type == "mcp_tool_use":
                name = f"{block.server_name or ''}__{name}"
            call_id = require_field(block.id, f"{field}.id")
            arguments = _call_arguments(block.input or {}, f"{field}.input")
            conversation.add_tool_call(call_id, name, arguments)
        case "tool_result" | "mcp_tool_result" if role == _RESULT_ROLES[block.type]:
            call_id = require_field(block.tool_use_id, f"{field}.tool_use_id")
            text = tool_result_text(block.content, f"{field}.content")
            conversation.add_tool_result(call_id, text)
        case other:
            raise UnsupportedField(
                f"{field}: blocks of type {other!r} are not supported in a message of role"
                f" {role!r}",
                param=field,
            )


def _call_arguments(written: Any, field: str) -> str | dict[str, Any]:
    """Return the input of an earlier call: an object as it is, anything else as text."""
    if isinstance(written, dict):
        return encodable_arguments(written)
    return arguments_text(written, field)
