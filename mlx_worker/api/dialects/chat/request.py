"""Parse the bodies of `POST /v1/chat/completions`; `response` writes the answers.

Unknown fields are tolerated, because clients add their own. A known field that this node cannot
honour is refused by name, never ignored in silence. Source: OpenAI's API reference, chat
completions; the samplers beyond it (top_k, min_p, repetition_penalty) as mlx_lm.server names
them.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from mlx_worker.api.dialects.base import GenerationRequest
from mlx_worker.api.dialects.chat.messages import ChatMessage, build_messages
from mlx_worker.api.dialects.chat.reasoning import (
    ChatReasoning,
    ChatThinking,
    build_reasoning_kwargs,
    reasoning_budgets,
)
from mlx_worker.api.dialects.chat.tools import resolve_chat_tools
from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import (
    AlternativeCount,
    CommonFields,
    ModelName,
    ShortText,
    StopStrings,
    Verbosity,
    check_free_form,
    refuse_unsupported,
    resolve_ends,
    resolve_max_tokens,
    resolve_prompt_scoring,
    resolve_sampling,
    resolve_seed,
    resolve_stop_strings,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.large_numbers import round_large_numbers
from mlx_worker.api.dialects.model_terms import TermsLookup, default_terms
from mlx_worker.api.dialects.reasoning_limit import resolve_thinking_budget
from mlx_worker.api.dialects.structured_output import resolve_constraint, response_format_constraint
from mlx_worker.config.sampler_types import Tokens
from mlx_worker.errors import InvalidRequest
from mlx_worker.limits import TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from mlx_worker.wire.request import JsonSchemaConstraint, Opening


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream contains beside the choices."""

    include_usage: bool | None = None


class ResponseSchema(msgspec.Struct, frozen=True):
    """A schema that the content has to fit; it is enforced, `strict` or not."""

    name: ShortText | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The format of the content.

    llama.cpp and Together put the schema beside the type; the last three fields are then there too.
    """

    type: ShortText
    json_schema: ResponseSchema | None = None
    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None
    description: str | None = None


ChatMessages = Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=10_000)]


class PredictedText(msgspec.Struct, frozen=True):
    """A part of a prediction."""

    type: Literal["text"]
    text: str


class Prediction(msgspec.Struct, frozen=True):
    """What the answer will repeat in long stretches, such as the file that it edits."""

    type: Literal["content"]
    content: str | Annotated[list[PredictedText], msgspec.Meta(max_length=10_000)]

    @property
    def text(self) -> str:
        """Return the prediction as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatCompletionRequest(CommonFields, frozen=True, kw_only=True):
    """The body of a chat completion: the fields that this node knows."""

    messages: ChatMessages
    model: ModelName | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: StopStrings | None = None
    logprobs: bool | None = None
    top_logprobs: AlternativeCount | None = None
    prompt_logprobs: AlternativeCount | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ShortText | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: ShortText | dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    prediction: Prediction | None = None
    web_search_options: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: ShortText | None = None
    reasoning: ChatReasoning | None = None
    thinking: bool | ChatThinking | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    verbosity: Verbosity | None = None
    store: bool | None = None
    user: str | None = None


def parse(data: bytes, terms_of: TermsLookup = default_terms) -> GenerationRequest:
    """Return the request of a body. Raises InvalidRequest, which names the field."""
    body = decode_body(data, ChatCompletionRequest)
    refuse_foreign(data, "chat", ChatCompletionRequest)
    terms = terms_of(body.model)
    defaults = terms.defaults
    _refuse_unsupported(body)
    seed = resolve_seed(body, defaults)
    opening = _resolve_opening(body)
    hosted = [] if body.web_search_options is None else ["web_search_options"]
    declared = round_large_numbers("tools", body.tools or [], TOOL_VALUES)
    tools = resolve_chat_tools(declared, body.tool_choice, hosted)
    kwargs = build_reasoning_kwargs(body, body.reasoning_effort, body.reasoning, body.thinking)
    chat = ChatRequest(
        messages=build_messages(body.messages, data, continued=opening == "continued"),
        sampling=resolve_sampling(body, defaults, seed),
        max_tokens=resolve_max_tokens(
            body.max_completion_tokens, body.max_tokens, defaults.max_tokens
        ),
        stop=resolve_stop_strings(body.stop),
        template_kwargs=kwargs,
        logprobs=_resolve_logprobs(body),
        tools=tools.offered,
        one_call=body.parallel_tool_calls is False or tools.one_call,
        constraint=resolve_constraint(
            body, tools.forced, parse_response_format(body.response_format)
        ),
        opening=opening,
        ends=resolve_ends(body),
        prompt_scoring=resolve_prompt_scoring(body.prompt_logprobs, None, stream=bool(body.stream)),
        thinking_budget=resolve_thinking_budget(
            body, terms, kwargs, reasoning_budgets(body.reasoning, body.thinking)
        ),
        prediction=body.prediction.text if body.prediction else "",
    )
    return GenerationRequest(
        model=body.model,
        chats=[chat],
        seed=seed,
        n=body.n or 1,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        warnings=tools.warnings,
    )


def _refuse_unsupported(body: ChatCompletionRequest) -> None:
    refuse_unsupported(
        {
            "functions": bool(body.functions),
            "function_call": body.function_call not in (None, "none", "auto"),
            "modalities": body.modalities not in (None, ["text"]),
            "audio": body.audio is not None,
            "moderation": body.moderation is not None,
        }
    )
    check_free_form("chat_template_kwargs", body.chat_template_kwargs, TEMPLATE_VALUES)


def _resolve_opening(body: ChatCompletionRequest) -> Opening:
    """Return how the answer begins. Raises InvalidRequest."""
    last = body.messages[-1]
    if not body.continue_final_message and not last.begins_answer:
        return "none" if body.add_generation_prompt is False else "turn"
    if body.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt: cannot be true while the last message is to be continued; omit"
            " it or send false",
            param="add_generation_prompt",
        )
    if last.role != "assistant" or last.tool_calls:
        problem = f"has role {last.role!r}" if last.role != "assistant" else "has tool_calls"
        raise InvalidRequest(
            f"continue_final_message: messages[{len(body.messages) - 1}] {problem};"
            " only a text message of role 'assistant' can be continued",
            param="continue_final_message",
        )
    return "continued"


def parse_response_format(format_: ResponseFormat | None) -> JsonSchemaConstraint | None:
    """Return the constraint that `response_format` asks for. Raises InvalidRequest."""
    if format_ is None:
        return None
    schema = format_.json_schema.schema if format_.json_schema else None
    schema_field = "response_format.json_schema.schema"
    if format_.schema is not None:
        if schema is not None:
            raise InvalidRequest(
                f"response_format.schema: cannot be combined with {schema_field}",
                param=schema_field,
            )
        schema, schema_field = format_.schema, "response_format.schema"
    return response_format_constraint(format_.type, schema, "response_format", schema_field)


def _resolve_logprobs(body: ChatCompletionRequest) -> int | None:
    """Return the number of alternatives per token; None: no log-probabilities."""
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest(
            f"top_logprobs: {body.top_logprobs} requires logprobs: true", param="top_logprobs"
        )
    return None
