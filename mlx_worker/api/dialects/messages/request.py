"""Parse the bodies of `POST /v1/messages` and `…/count_tokens`; `response` writes the answers.

`cache_control` is accepted and not needed: every prefix that was read may be reused.
Source: Anthropic's API reference, messages.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from mlx_worker.api.dialects.base import GenerationRequest
from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import (
    CommonFields,
    ModelName,
    ShortText,
    build_template_kwargs,
    check_free_form,
    refuse_unsupported,
    resolve_ends,
    resolve_max_tokens,
    resolve_sampling,
    resolve_seed,
    resolve_stop_strings,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.hosted_tools import history_warning
from mlx_worker.api.dialects.large_numbers import round_large_numbers
from mlx_worker.api.dialects.messages.blocks import TextBlock
from mlx_worker.api.dialects.messages.history import InputMessage, build_conversation
from mlx_worker.api.dialects.messages.tools import MessagesToolChoice, resolve_messages_tools
from mlx_worker.api.dialects.model_terms import ModelTerms, TermsLookup, default_terms
from mlx_worker.api.dialects.reasoning_limit import resolve_thinking_budget
from mlx_worker.api.dialects.structured_output import json_schema_constraint, resolve_constraint
from mlx_worker.config.sampler_types import ReasoningTokens, Tokens
from mlx_worker.errors import InvalidRequest
from mlx_worker.limits import CALL_VALUES, TEMPLATE_VALUES, TOOL_VALUES, check_depth, check_values
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from mlx_worker.api.dialects.conversation import ConversationBuilder
    from mlx_worker.wire.request import AnswerConstraint, JsonSchemaConstraint, Opening


class MessagesThinking(msgspec.Struct, frozen=True):
    """Whether the model thinks first, if its template has a switch for it, and how long at most."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: ReasoningTokens | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    """The format of the content."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """The effort of reasoning, and the format of the content."""

    effort: ShortText | None = None
    format: OutputFormat | None = None


class MessageRequest(CommonFields, frozen=True, kw_only=True):
    """The body of a message: the fields that this node knows."""

    messages: Annotated[list[InputMessage], msgspec.Meta(min_length=1, max_length=10_000)]
    model: ModelName | None = None
    system: str | list[TextBlock] | None = None
    max_tokens: Tokens | None = None
    stop_sequences: list[ShortText] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: MessagesThinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    container: str | dict[str, Any] | None = None
    mcp_servers: list[dict[str, Any]] | None = None


def parse(data: bytes, terms_of: TermsLookup = default_terms) -> GenerationRequest:
    """Return the request of a body. Raises InvalidRequest, which names the field."""
    body = decode_body(data, MessageRequest)
    refuse_foreign(data, "messages", MessageRequest)
    terms = terms_of(body.model)
    seed = resolve_seed(body, terms.defaults)
    chat, warnings = _build_chat(body, terms, seed)
    return GenerationRequest(
        model=body.model,
        chats=[chat],
        seed=seed,
        n=1,
        stream=bool(body.stream),
        include_usage=True,
        warnings=warnings,
    )


def parse_count_body(data: bytes) -> tuple[str | None, ChatRequest]:
    """Return the model's name, and the request whose tokens are to be counted."""
    body = decode_body(data, MessageRequest)
    chat, _ = _build_chat(body, ModelTerms(), seed=0)
    return body.model, chat


def _build_chat(
    body: MessageRequest, terms: ModelTerms, seed: int
) -> tuple[ChatRequest, list[str]]:
    """Return the request, and warnings of what was left out."""
    refuse_unsupported({"container": body.container is not None})
    conversation, left_out = build_conversation(body.messages, body.system or "")
    check_free_form("chat_template_kwargs", body.chat_template_kwargs, TEMPLATE_VALUES)
    check_values(conversation.tool_calls, CALL_VALUES, "messages")
    check_depth(conversation.tool_calls, "messages")
    servers = ["mcp_servers"] if body.mcp_servers else []
    declared = round_large_numbers("tools", body.tools or [], TOOL_VALUES)
    choice = body.tool_choice or MessagesToolChoice("auto")
    tools = resolve_messages_tools(declared, choice, servers)
    constraint = resolve_constraint(body, tools.forced, _output_constraint(body))
    kwargs = _template_kwargs(body)
    thinking = {"thinking.budget_tokens": body.thinking.budget_tokens} if body.thinking else {}
    chat = ChatRequest(
        messages=conversation.messages,
        sampling=resolve_sampling(body, terms.defaults, seed),
        max_tokens=resolve_max_tokens(body.max_tokens, terms.defaults.max_tokens),
        stop=resolve_stop_strings(body.stop_sequences, "stop_sequences"),
        template_kwargs=kwargs,
        tools=tools.offered,
        one_call=tools.one_call,
        constraint=constraint,
        opening=_resolve_opening(body, conversation, constraint),
        ends=resolve_ends(body),
        thinking_budget=resolve_thinking_budget(body, terms, kwargs, thinking),
    )
    return chat, [*tools.warnings, *history_warning("messages", left_out)]


def _resolve_opening(
    body: MessageRequest, conversation: ConversationBuilder, constraint: AnswerConstraint | None
) -> Opening:
    """Return how the answer begins: it continues a last message of the assistant.

    Raises InvalidRequest if such an answer could not be what is asked for.
    """
    if body.messages[-1].role != "assistant" or conversation.last_role != "assistant":
        return "turn"
    field = f"messages[{len(body.messages) - 1}]"
    if conversation.ends_with_tool_calls:
        raise InvalidRequest(
            f"{field}: the last message has a tool_use block; a message with its tool_result has to"
            " follow",
            param=field,
        )
    if constraint is not None:
        raise InvalidRequest(
            f"{field}: assistant prefill cannot be combined with {constraint.field}; the last"
            " message must have role 'user'",
            param=field,
        )
    return "continued"


def _output_constraint(body: MessageRequest) -> JsonSchemaConstraint | None:
    if body.output_config is not None and body.output_config.format is not None:
        schema = body.output_config.format.schema
        return json_schema_constraint(schema, "output_config.format.schema")
    if body.output_format is not None:  # the name of the field in beta versions
        return json_schema_constraint(body.output_format.schema, "output_format.schema")
    return None


def _template_kwargs(body: MessageRequest) -> dict[str, Any]:
    effort = body.output_config.effort if body.output_config else None
    kwargs = build_template_kwargs(body, effort)
    if body.thinking is None:
        return kwargs
    return {"enable_thinking": body.thinking.type != "disabled"} | kwargs
