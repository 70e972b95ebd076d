"""The dialect of `POST /v1/messages` and `…/count_tokens`; `messages_reply` writes its answers.

`cache_control` is accepted and not needed: every prefix that was read is a candidate for reuse.
Source: Anthropic's API reference, messages. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from mlx_worker.api.dialects.base import Call, decode
from mlx_worker.api.dialects.conversation import Turns
from mlx_worker.api.dialects.fields import (
    ModelName,
    Samplers,
    Word,
    answer_tokens,
    ends_of,
    no_defaults,
    refuse_unsayable,
    refuse_unsupported,
    required,
    sampling,
    seed_of,
    stop_words,
    template_kwargs,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.hosted_tools import history_warning
from mlx_worker.api.dialects.large_numbers import arguments_as_written, arguments_in_digits, rounded
from mlx_worker.api.dialects.messages.blocks import (
    TOLD,
    TextBlock,
    ToldBlock,
    own_turn,
    text_in,
    text_of,
)
from mlx_worker.api.dialects.messages.tools import ToolChoice, chosen
from mlx_worker.api.dialects.structured_output import constraint_of, fitting
from mlx_worker.config.sampler_types import Tokens
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.limits import CALL_VALUES, TEMPLATE_VALUES, TOOL_VALUES, check_depth, check_values
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import Defaults
    from mlx_worker.wire.request import AnswerConstraint, JsonSchemaConstraint, Opening

BILLING = "x-anthropic-billing-header:"
"""A line at the head of a coding agent's system prompt, new with every request: with it in place
no prefix would ever be found again."""

PARAGRAPH = "\n\n"

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
"""Blocks of a server's own tools in earlier turns: a model is not told of them."""

_SPEAKS: Final = {"tool_result": "user", "mcp_tool_result": "assistant"}
"""The role whose turn has the result of a tool: the caller's, or the server's that ran the tool."""


class Block(ToldBlock, frozen=True):
    """One part of a message; which fields it needs is told by its type."""

    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    server_name: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Thinking(msgspec.Struct, frozen=True):
    """Whether the model is to think first, where its template knows a switch."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]


class OutputFormat(msgspec.Struct, frozen=True):
    """The shape of the answer."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """How much effort, and in which shape."""

    effort: Word | None = None
    format: OutputFormat | None = None


class MessagesBody(Samplers, frozen=True, kw_only=True):
    """The fields that this node knows."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=10_000)]
    model: ModelName | None = None
    system: str | list[TextBlock] | None = None
    max_tokens: Tokens | None = None
    stop_sequences: list[Word] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    container: str | dict[str, Any] | None = None
    mcp_servers: list[dict[str, Any]] | None = None


def parse(body: bytes, defaults_of: Callable[[str | None], Defaults] = no_defaults) -> Call:
    """A request body as a call. Raises InvalidRequest, which names the field."""
    asked = decode(body, MessagesBody)
    refuse_foreign(body, "messages", MessagesBody)
    defaults = defaults_of(asked.model)
    seed = seed_of(asked, defaults)
    chat, warnings = _chat(asked, defaults, seed)
    return Call(
        model=asked.model,
        chats=[chat],
        seed=seed,
        n=1,
        stream=bool(asked.stream),
        include_usage=True,
        warnings=warnings,
    )


def parse_to_count(body: bytes) -> tuple[str | None, ChatRequest]:
    """A body whose tokens are to be counted: for which model, and what."""
    asked = decode(body, MessagesBody)
    chat, _ = _chat(asked, no_defaults(None), seed=0)
    return asked.model, chat


def _chat(asked: MessagesBody, defaults: Defaults, seed: int) -> tuple[ChatRequest, list[str]]:
    """Return the request, and what its caller should know of what was left out."""
    _refuse(asked)
    turns, left_out = _turns(asked)
    refuse_unsayable("chat_template_kwargs", asked.chat_template_kwargs, TEMPLATE_VALUES)
    check_values(turns.calls, CALL_VALUES, "messages")
    check_depth(turns.calls, "messages")
    servers = ["mcp_servers"] if asked.mcp_servers else []
    tools = rounded("tools", asked.tools or [], TOOL_VALUES)
    choice = chosen(tools, asked.tool_choice or ToolChoice("auto"), servers)
    constraint = constraint_of(asked, choice.forced, _shape(asked))
    chat = ChatRequest(
        messages=turns.made,
        sampling=sampling(asked, defaults, seed),
        max_tokens=answer_tokens(asked.max_tokens, defaults.max_tokens),
        stop=stop_words(asked.stop_sequences, "stop_sequences"),
        template_kwargs=_template_kwargs(asked),
        tools=choice.offered,
        one_call=choice.one_call,
        constraint=constraint,
        opening=_opening(asked, turns, constraint),
        ends=ends_of(asked),
    )
    return chat, [*choice.warnings, *history_warning("messages", left_out)]


def _opening(asked: MessagesBody, turns: Turns, constraint: AnswerConstraint | None) -> Opening:
    """Return how the answer begins: words of the assistant's at the end are continued.

    Raises InvalidRequest where such an answer could not be what is asked for.
    """
    if asked.messages[-1].role != "assistant" or turns.last_role != "assistant":
        return "turn"
    field = f"messages[{len(asked.messages) - 1}]"
    if turns.ends_with_calls:
        raise InvalidRequest(
            f"{field}: the conversation ends with a tool_use; its tool_result has to follow",
            param=field,
        )
    if constraint is not None:
        raise InvalidRequest(
            f"{field}: the assistant's message begins the answer, which {constraint.field} then"
            " cannot shape; end with the user's message",
            param=field,
        )
    return "continued"


def _shape(asked: MessagesBody) -> JsonSchemaConstraint | None:
    if asked.output_config is not None and asked.output_config.format is not None:
        return fitting(asked.output_config.format.schema, "output_config.format.schema")
    if asked.output_format is not None:  # as it was called while in beta
        return fitting(asked.output_format.schema, "output_format.schema")
    return None


def _refuse(asked: MessagesBody) -> None:
    refuse_unsupported({"container": asked.container is not None})


def _template_kwargs(asked: MessagesBody) -> dict[str, Any]:
    told = template_kwargs(asked, asked.output_config.effort if asked.output_config else None)
    if asked.thinking is None:
        return told
    return {"enable_thinking": asked.thinking.type != "disabled"} | told


# --- what was said ------------------------------------------------------------------------


def _turns(asked: MessagesBody) -> tuple[Turns, list[str]]:
    """Return the conversation, and the types of blocks that are left out of it."""
    turns = Turns(joins_users=True)
    left_out: list[str] = []
    if system := _without_billing(_words(asked.system or "", "system")):
        turns.said("system", system)
    own = own_turn(asked.messages)
    for i, message in enumerate(asked.messages):
        if isinstance(message.content, str):
            turns.said(message.role, message.content)
        else:
            at = f"messages[{i}].content"
            left_out += _take(turns, message.role, message.content, at, own=i == own)
    return turns, left_out


def _without_billing(system: str) -> str:
    if not system.startswith(BILLING):
        return system
    _, _, rest = system.partition("\n")
    return rest.lstrip("\n")


def _take(turns: Turns, role: str, blocks: list[Block], at: str, *, own: bool) -> list[str]:
    """Add one turn to a conversation; return the types of the blocks that are left out."""
    left_out: list[str] = []
    words: list[str] = []
    for k, block in enumerate(blocks):
        field = f"{at}[{k}]"
        match block.type:
            case kind if kind in TOLD and role == "assistant":
                turns.said(role, text_of(block, field))
            case kind if kind in TOLD:
                words.append(text_of(block, field, own=own))
            case "thinking" if role == "assistant":
                turns.thought(required(block.thinking, f"{field}.thinking"))
            case "redacted_thinking" if role == "assistant":
                pass  # another server's, and nobody else can read it
            case "tool_use" | "mcp_tool_use" if role == "assistant":
                name = required(block.name, f"{field}.name")
                called = f"{block.server_name or ''}__{name}" if block.type != "tool_use" else name
                turns.called(
                    required(block.id, f"{field}.id"),
                    called,
                    _arguments(block.input or {}, f"{field}.input"),
                )
            case "tool_result" | "mcp_tool_result" if role == _SPEAKS[block.type]:
                call_id = required(block.tool_use_id, f"{field}.tool_use_id")
                turns.answered(call_id, text_in(block.content, f"{field}.content"))
            case hosted if hosted in LEFT_OUT:
                left_out.append(hosted)
            case other:
                raise UnsupportedField(
                    f"{field}: blocks of type {other!r} are not understood from the {role}",
                    param=field,
                )
    if words:
        turns.said(role, PARAGRAPH.join(filter(None, words)))
    return left_out


def _arguments(written: Any, field: str) -> str | dict[str, Any]:
    """Return the input of an earlier call: an object as it is, anything else as text."""
    if isinstance(written, dict):
        return arguments_in_digits(written)
    return arguments_as_written(written, field)


def _words(content: str | list[TextBlock], at: str) -> str:
    if isinstance(content, str):
        return content
    for k, block in enumerate(content):
        if block.type != "text":
            raise UnsupportedField(
                f"{at}[{k}]: blocks of type {block.type!r} are not understood, only text",
                param=f"{at}[{k}]",
            )
        required(block.text, f"{at}[{k}].text")
    return PARAGRAPH.join(block.text or "" for block in content)
