"""The dialect of `POST /v1/chat/completions`, as it is asked; `chat_reply` writes its answers.

Unknown fields are tolerated, because clients add their own; a known field that this node cannot
honour is refused with its name, never ignored in silence. Source: OpenAI's API reference, chat
completions; the samplers beyond it (top_k, min_p, repetition_penalty) as mlx_lm.server names
them. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from mlx_worker.api.dialect import Call, decode, fitted
from mlx_worker.api.fields import (
    Alternatives,
    ModelName,
    Samplers,
    Stop,
    Word,
    ends_of,
    first_given,
    no_defaults,
    refuse_unsayable,
    refuse_unsupported,
    required,
    sampling,
    scoring_of,
    seed_of,
    stop_words,
    template_kwargs,
)
from mlx_worker.api.other_servers import refuse_foreign
from mlx_worker.api.shapes import constraint_of, formatted, must_call
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.limits import CALL_VALUES, TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.sampler_types import Tokens
from mlx_worker.wire.messages import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config import Defaults
    from mlx_worker.wire import messages as m


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content; only text is understood."""

    type: Word
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


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


class ChosenFunction(msgspec.Struct, frozen=True):
    """A function's name."""

    name: Word


class ChosenTool(msgspec.Struct, frozen=True):
    """The tool that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


class Function(msgspec.Struct, frozen=True):
    """What a tool must say of itself; the rest is between the caller and the template."""

    name: Word
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that is offered; there are only functions."""

    type: Literal["function"]
    function: Function


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
    verbosity: str | None = None
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
    tools = _tools(asked)
    chat = ChatRequest(
        messages=[_turn(i, message) for i, message in enumerate(asked.messages)],
        sampling=sampling(asked, defaults, seed),
        max_tokens=first_given(asked.max_completion_tokens, asked.max_tokens, defaults.max_tokens),
        stop=stop_words(asked.stop),
        template_kwargs=template_kwargs(asked, asked.reasoning_effort),
        logprobs=_logprobs(asked),
        tools=tools,
        one_call=asked.parallel_tool_calls is False or isinstance(asked.tool_choice, dict),
        constraint=constraint_of(asked, _forced(asked), response_shape(asked.response_format)),
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
            "web_search_options": asked.web_search_options is not None,
            "verbosity": asked.verbosity not in (None, "medium"),
            "store": asked.store is True,
        }
    )
    calls = [message.tool_calls for message in asked.messages if message.tool_calls]
    refuse_unsayable("chat_template_kwargs", asked.chat_template_kwargs, TEMPLATE_VALUES)
    refuse_unsayable("tools", asked.tools, TOOL_VALUES)
    refuse_unsayable("messages", calls, CALL_VALUES)


def _tools(asked: ChatBody) -> list[dict[str, Any]]:
    """Those that are offered, as the caller wrote them: templates show them word for word."""
    if not asked.tools:
        return []
    fitted(asked.tools, list[Tool], "tools")
    return [] if asked.tool_choice == "none" else asked.tools


def _forced(asked: ChatBody) -> m.Call | None:
    """The calls that an answer has to be. Raises InvalidRequest."""
    choice = asked.tool_choice
    if choice in (None, "none", "auto"):
        return None
    names = [tool["function"]["name"] for tool in asked.tools or []]
    if choice == "required":
        return must_call(names, "tool_choice")
    if isinstance(choice, str) or choice.get("type") != "function":
        raise UnsupportedField(f"tool_choice: {choice!r} is not understood", param="tool_choice")
    only = fitted(choice, ChosenTool, "tool_choice").function.name
    return must_call(names, "tool_choice", only)


def response_shape(asked: ResponseFormat | None) -> m.JsonSchema | None:
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


def _turn(index: int, message: ChatMessage) -> dict[str, Any]:
    turn = msgspec.to_builtins(message)
    assert isinstance(turn, dict)
    turn["role"] = "system" if message.role == "developer" else message.role
    turn["content"] = _text(index, message)
    return turn


def _text(index: int, message: ChatMessage) -> str:
    content = message.content or ""
    if isinstance(content, str):
        return content
    for k, part in enumerate(content):
        field = f"messages[{index}].content[{k}]"
        if part.type != "text":
            raise UnsupportedField(
                f"{field}: parts of type {part.type!r} are not understood, only 'text'", param=field
            )
        required(part.text, f"{field}.text")
    return "".join(part.text or "" for part in content)
