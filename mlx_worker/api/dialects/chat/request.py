"""The dialect of `POST /v1/chat/completions`, as it is asked; `chat_reply` writes its answers.

Unknown fields are tolerated, because clients add their own; a known field that this node cannot
honour is refused with its name, never ignored in silence. Source: OpenAI's API reference, chat
completions; the samplers beyond it (top_k, min_p, repetition_penalty) as mlx_lm.server names
them. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mlx_worker.api.dialects.base import Call, decode
from mlx_worker.api.dialects.chat.reasoning import Reasoning, ThinkingSwitch, reasoning_kwargs
from mlx_worker.api.dialects.chat.tools import chosen
from mlx_worker.api.dialects.chat.turns import ChatMessage, turns_of
from mlx_worker.api.dialects.fields import (
    Alternatives,
    ModelName,
    Samplers,
    Stop,
    Verbosity,
    Word,
    answer_tokens,
    ends_of,
    no_defaults,
    refuse_unsayable,
    refuse_unsupported,
    sampling,
    scoring_of,
    seed_of,
    stop_words,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.large_numbers import rounded
from mlx_worker.api.dialects.structured_output import constraint_of, formatted
from mlx_worker.config.sampler_types import Tokens
from mlx_worker.errors import InvalidRequest
from mlx_worker.limits import TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import Defaults
    from mlx_worker.wire.request import JsonSchemaConstraint, Opening


class StreamOptions(msgspec.Struct, frozen=True):
    """What else to stream."""

    include_usage: bool | None = None


class NamedSchema(msgspec.Struct, frozen=True):
    """A schema that the content has to fit; it is kept to, `strict` or not."""

    name: Word | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape of the answer.

    llama.cpp and Together put the schema beside the type; the last three fields are then there too.
    """

    type: Word
    json_schema: NamedSchema | None = None
    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None
    description: str | None = None


class ChatBody(Samplers, frozen=True, kw_only=True):
    """The fields that this node knows."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=10_000)]
    model: ModelName | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: Stop | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    prompt_logprobs: Alternatives | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Word | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: Word | dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Word | None = None
    reasoning: Reasoning | None = None
    thinking: bool | ThinkingSwitch | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    verbosity: Verbosity | None = None
    store: bool | None = None
    user: str | None = None


def parse(body: bytes, defaults_of: Callable[[str | None], Defaults] = no_defaults) -> Call:
    """A request body as a call. Raises InvalidRequest, which names the field.

    `defaults_of` tells what the model of that name means where the request says nothing.
    """
    asked = decode(body, ChatBody)
    refuse_foreign(body, "chat", ChatBody)
    defaults = defaults_of(asked.model)
    _refuse(asked)
    seed = seed_of(asked, defaults)
    opening = _opening(asked)
    hosted = [] if asked.web_search_options is None else ["web_search_options"]
    tools = rounded("tools", asked.tools or [], TOOL_VALUES)
    choice = chosen(tools, asked.tool_choice, hosted)
    chat = ChatRequest(
        messages=turns_of(asked.messages, body, continued=opening == "continued"),
        sampling=sampling(asked, defaults, seed),
        max_tokens=answer_tokens(
            asked.max_completion_tokens, asked.max_tokens, defaults.max_tokens
        ),
        stop=stop_words(asked.stop),
        template_kwargs=reasoning_kwargs(asked),
        logprobs=_logprobs(asked),
        tools=choice.offered,
        one_call=asked.parallel_tool_calls is False or choice.one_call,
        constraint=constraint_of(asked, choice.forced, response_shape(asked.response_format)),
        opening=opening,
        ends=ends_of(asked),
        prompt_scoring=scoring_of(asked.prompt_logprobs, None, stream=bool(asked.stream)),
    )
    return Call(
        model=asked.model,
        chats=[chat],
        seed=seed,
        n=asked.n or 1,
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        warnings=choice.warnings,
    )


def _refuse(asked: ChatBody) -> None:
    refuse_unsupported(
        {
            "functions": bool(asked.functions),
            "function_call": asked.function_call not in (None, "none", "auto"),
            "modalities": asked.modalities not in (None, ["text"]),
            "audio": asked.audio is not None,
            "moderation": asked.moderation is not None,
            "prediction": asked.prediction is not None,
        }
    )
    refuse_unsayable("chat_template_kwargs", asked.chat_template_kwargs, TEMPLATE_VALUES)


def _opening(asked: ChatBody) -> Opening:
    """Return how the answer begins. Raises InvalidRequest."""
    last = asked.messages[-1]
    if not asked.continue_final_message and not last.is_begun:
        return "none" if asked.add_generation_prompt is False else "turn"
    if asked.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt: the last message is to be continued, so no turn begins; leave"
            " it out or send false",
            param="add_generation_prompt",
        )
    if last.role != "assistant" or last.tool_calls:
        what = f"is of role {last.role!r}" if last.role != "assistant" else "has tool_calls"
        raise InvalidRequest(
            f"continue_final_message: messages[{len(asked.messages) - 1}] {what};"
            " only words of the assistant can be continued",
            param="continue_final_message",
        )
    return "continued"


def response_shape(asked: ResponseFormat | None) -> JsonSchemaConstraint | None:
    """Return the shape that `response_format` asks for. Raises InvalidRequest."""
    if asked is None:
        return None
    schema = asked.json_schema.schema if asked.json_schema else None
    at = "response_format.json_schema.schema"
    if asked.schema is not None:
        if schema is not None:
            raise InvalidRequest(f"response_format.schema: {at} is given too", param=at)
        schema, at = asked.schema, "response_format.schema"
    return formatted(asked.type, schema, "response_format", at)


def _logprobs(asked: ChatBody) -> int | None:
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise InvalidRequest(
            f"top_logprobs: {asked.top_logprobs} is only told with logprobs: true",
            param="top_logprobs",
        )
    return None
