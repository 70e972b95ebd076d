"""Parse the bodies of `POST /v1/responses`; `response` writes the answers.

This node stores no conversations: each comes whole with every request, and a field that needs a
stored response is refused by name. Only a response that is made in the background is kept for its
client, for minutes. Source: OpenAI's API reference, responses.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from mlx_worker.api.dialects.base import GenerationRequest
from mlx_worker.api.dialects.decoding import convert_field, decode_body
from mlx_worker.api.dialects.fields import (
    AlternativeCount,
    CommonFields,
    ModelName,
    ShortText,
    Verbosity,
    build_template_kwargs,
    check_free_form,
    refuse_unsupported,
    resolve_ends,
    resolve_max_tokens,
    resolve_sampling,
    resolve_seed,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.hosted_tools import history_warning
from mlx_worker.api.dialects.large_numbers import round_large_numbers
from mlx_worker.api.dialects.model_terms import TermsLookup, default_terms
from mlx_worker.api.dialects.reasoning_limit import resolve_thinking_budget
from mlx_worker.api.dialects.responses.history import TOOL_ITEMS, build_conversation
from mlx_worker.api.dialects.responses.items import InputItem
from mlx_worker.api.dialects.responses.tool_names import ToolName
from mlx_worker.api.dialects.responses.tools import ToolCatalog
from mlx_worker.api.dialects.structured_output import (
    resolve_constraint,
    response_format_constraint,
)
from mlx_worker.config.sampler_types import Tokens
from mlx_worker.errors import UnsupportedField
from mlx_worker.json_output import encode
from mlx_worker.limits import TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from mlx_worker.wire.request import JsonSchemaConstraint

LOGPROBS: Final = "message.output_text.logprobs"

INCLUDABLE: Final = frozenset(
    {
        LOGPROBS,
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
"""Values of `include` in the reference. No answer of this node has any but `LOGPROBS`: reasoning is
text, and there are no hosted tools and no images."""


class TextFormat(msgspec.Struct, frozen=True):
    """The format of the text; a schema is enforced, `strict` or not."""

    type: ShortText
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """The format and the length of the text."""

    format: TextFormat | None = None
    verbosity: Verbosity | None = None


class ResponsesReasoning(msgspec.Struct, frozen=True):
    """How much the model reasons, and whether the response has a summary of it."""

    effort: ShortText | None = None
    summary: str | None = None


class ResponseRequest(CommonFields, frozen=True, kw_only=True):
    """The body of a response: the fields that this node knows."""

    input: str | Annotated[list[InputItem], msgspec.Meta(min_length=1, max_length=10_000)]
    model: ModelName | None = None
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ShortText | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ResponsesReasoning | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[str, str], msgspec.Meta(max_length=1000)] | None = None
    include: list[ShortText] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    background: bool | None = None
    moderation: dict[str, Any] | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    top_logprobs: AlternativeCount | None = None


class ResponsesGenerationRequest(GenerationRequest, frozen=True, kw_only=True):
    """A request whose response repeats some of its fields, `repeated`, which are JSON.

    `wants_summary`: reasoning is to be in the summary. `renamed` are the client's names of tools,
    by the names under which a model calls them. `background`: the client does not wait for the end,
    and reads the response by its id.
    """

    repeated: dict[str, msgspec.Raw]
    wants_summary: bool
    renamed: dict[str, ToolName]
    background: bool = False


def parse(data: bytes, terms_of: TermsLookup = default_terms) -> ResponsesGenerationRequest:
    """Return the request of a body. Raises InvalidRequest, which names the field."""
    body = decode_body(data, ResponseRequest)
    refuse_foreign(data, "responses", ResponseRequest)
    terms = terms_of(body.model)
    defaults = terms.defaults
    _refuse_unsupported(body)
    check_free_form("chat_template_kwargs", body.chat_template_kwargs, TEMPLATE_VALUES)
    catalog = _build_catalog(body)
    tools = catalog.resolve(body.tool_choice)
    conversation, left_out = build_conversation(body.instructions, body.input, catalog)
    seed = resolve_seed(body, defaults)
    kwargs = build_template_kwargs(body, body.reasoning.effort if body.reasoning else None)
    chat = ChatRequest(
        messages=conversation.messages,
        sampling=resolve_sampling(body, defaults, seed),
        max_tokens=resolve_max_tokens(body.max_output_tokens, defaults.max_tokens),
        template_kwargs=kwargs,
        logprobs=_resolve_logprobs(body),
        tools=tools.offered,
        one_call=body.parallel_tool_calls is False or tools.one_call,
        constraint=resolve_constraint(body, tools.forced, _text_constraint(body.text)),
        ends=resolve_ends(body),
        thinking_budget=resolve_thinking_budget(body, terms, kwargs),
    )
    return ResponsesGenerationRequest(
        model=body.model,
        chats=[chat],
        seed=seed,
        n=1,
        stream=bool(body.stream),
        include_usage=True,
        repeated=_repeated_fields(body, chat),
        wants_summary=bool(body.reasoning and body.reasoning.summary),
        renamed=catalog.renamed,
        background=bool(body.background),
        warnings=[*tools.warnings, *history_warning("input", left_out)],
    )


def _refuse_unsupported(body: ResponseRequest) -> None:
    if body.previous_response_id is not None:
        raise UnsupportedField(
            "previous_response_id: this node stores no responses; send the earlier items again in"
            " input (clients do this if their own `store` is false)",
            param="previous_response_id",
        )
    refuse_unsupported(
        {
            "conversation": body.conversation is not None,
            "prompt": body.prompt is not None,
            "moderation": body.moderation is not None,
        }
    )
    if body.background and body.store is False:
        raise UnsupportedField(
            "background: a response in the background is kept for its client; `store` must not be"
            " false",
            param="background",
        )
    for name in body.include or ():
        if name not in INCLUDABLE:
            raise UnsupportedField(f"include: {name!r} is not supported", param="include")


def _resolve_logprobs(body: ResponseRequest) -> int | None:
    """Return the number of alternatives per token; None: no log-probabilities."""
    if LOGPROBS in (body.include or ()) or body.top_logprobs:
        return body.top_logprobs or 0
    return None


def _build_catalog(body: ResponseRequest) -> ToolCatalog:
    """Return the tools of the request, and of items that have some. Raises InvalidRequest."""
    catalog = ToolCatalog()
    catalog.add(round_large_numbers("tools", body.tools or [], TOOL_VALUES), "tools")
    for i, item in enumerate(body.input if isinstance(body.input, list) else ()):
        if item.kind in TOOL_ITEMS and item.tools:
            field = f"input[{i}].tools"
            tools = round_large_numbers(field, item.tools, TOOL_VALUES)
            catalog.add(convert_field(tools, list[dict[str, Any]], field), field)
    return catalog


def _text_constraint(text: TextOptions | None) -> JsonSchemaConstraint | None:
    if text is None or text.format is None:
        return None
    format_ = text.format
    return response_format_constraint(
        format_.type, format_.schema, "text.format", "text.format.schema"
    )


def _repeated_fields(body: ResponseRequest, chat: ChatRequest) -> dict[str, msgspec.Raw]:
    text = body.text or TextOptions()
    fields = {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "reasoning": body.reasoning or ResponsesReasoning(),
        "temperature": chat.sampling.temperature,
        "top_p": chat.sampling.top_p,
        "text": {
            "format": text.format or TextFormat("text"),
            "verbosity": text.verbosity or "medium",
        },
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
    }
    return {field: msgspec.Raw(encode(value)) for field, value in fields.items()}
