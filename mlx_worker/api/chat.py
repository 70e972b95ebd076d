"""The dialect of `POST /v1/chat/completions`, as it is asked; `chat_reply` writes its answers.

Unknown fields are tolerated, because clients add their own; a known field that this node cannot
honour is refused with its name, never ignored in silence. Source: OpenAI's API reference, chat
completions; the samplers beyond it (top_k, min_p, repetition_penalty) as mlx_lm.server names
them. [front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from mlx_worker.api.dialect import Call, decode, fitted
from mlx_worker.config import Defaults, RepetitionPenalty, Temperature, Tokens, TopK, TopP, Unit
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.typed import deeper_than
from mlx_worker.wire.messages import ChatRequest, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
DEEPEST = 64
"""Levels of lists and objects inside what is free in form."""

TokenId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]

_MASK = (1 << 64) - 1
_MADE_SEED_BITS = 53
"""A seed made here is told to the caller: as many bits as every reader of JSON keeps."""


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content; only text is understood."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What else to stream."""

    include_usage: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """The shape of the answer; only text is honoured."""

    type: str


class Function(msgspec.Struct, frozen=True):
    """What a tool must say of itself; the rest is between the caller and the template."""

    name: Word
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that is offered; there are only functions."""

    type: Literal["function"]
    function: Function


class ChatBody(msgspec.Struct, frozen=True):
    """The fields that this node knows."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=10_000)]
    model: str | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: Word | Annotated[list[Word], msgspec.Meta(max_length=16)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(1 << 63), le=_MASK >> 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def no_defaults(_model: str | None) -> Defaults:
    """For a model that has none."""
    return Defaults()


def parse(body: bytes, defaults_of: Callable[[str | None], Defaults] = no_defaults) -> Call:
    """A request body as a call. Raises InvalidRequest, which names the field.

    `defaults_of` tells what the model of that name means where the request says nothing.
    """
    asked = decode(body, ChatBody)
    defaults = defaults_of(asked.model)
    _refuse_unsupported(asked)
    _refuse_unsayable(asked)
    seed = secrets.randbits(_MADE_SEED_BITS) if asked.seed is None else asked.seed
    return Call(
        model=asked.model,
        chat=ChatRequest(
            messages=[_turn(i, message) for i, message in enumerate(asked.messages)],
            sampling=_sampling(asked, defaults, seed),
            max_tokens=_first(asked.max_completion_tokens, asked.max_tokens, defaults.max_tokens),
            stop=_stop(asked.stop),
            template_kwargs=asked.chat_template_kwargs or {},
            logprobs=_logprobs(asked),
            tools=_tools(asked),
            one_call=asked.parallel_tool_calls is False,
        ),
        seed=seed,
        n=asked.n or 1,
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
    )


def _refuse_unsupported(asked: ChatBody) -> None:
    shape = asked.response_format
    refused = {
        "tool_choice": asked.tool_choice not in (None, "none", "auto"),
        "functions": bool(asked.functions),
        "function_call": asked.function_call not in (None, "none", "auto"),
        "modalities": asked.modalities not in (None, ["text"]),
        "response_format": shape is not None and shape.type != "text",
    }
    for field, is_asked in refused.items():
        if is_asked:
            raise UnsupportedField(f"{field}: this node cannot honour it", param=field)


def _tools(asked: ChatBody) -> list[dict[str, Any]]:
    """Those that are offered, as the caller wrote them: templates show them word for word."""
    if not asked.tools:
        return []
    fitted(asked.tools, list[Tool], "tools")
    return [] if asked.tool_choice == "none" else asked.tools


def _logprobs(asked: ChatBody) -> int | None:
    if asked.logprobs:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise InvalidRequest(
            f"top_logprobs: {asked.top_logprobs} is only told with logprobs: true",
            param="top_logprobs",
        )
    return None


def _refuse_unsayable(asked: ChatBody) -> None:
    """JSON has no largest integer and no deepest nest, the pipe and templates have."""
    free = {
        "chat_template_kwargs": asked.chat_template_kwargs,
        "tools": asked.tools,
        "messages": [message.tool_calls for message in asked.messages if message.tool_calls],
    }
    for field, value in free.items():
        if deeper_than(value, DEEPEST):
            raise InvalidRequest(f"{field}: nested deeper than {DEEPEST} levels", param=field)
        try:
            msgspec.msgpack.encode(value)
        except OverflowError as error:
            raise InvalidRequest(f"{field}: a number beyond 64 bits", param=field) from error


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
        if part.text is None:
            raise InvalidRequest(f"{field}.text: is required", param=f"{field}.text")
    return "".join(part.text or "" for part in content)


def _stop(stop: str | list[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else stop or []


def _first(*values: T | None) -> T | None:
    """The first that was given."""
    return next((value for value in values if value is not None), None)


def _sampling(asked: ChatBody, defaults: Defaults, seed: int) -> Sampling:
    said: dict[str, float | None] = {
        name: _first(getattr(asked, name), getattr(defaults, name, None))
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
    }
    return Sampling(
        seed=seed & _MASK,
        logit_bias=asked.logit_bias or {},
        **{name: value for name, value in said.items() if value is not None},  # type: ignore[arg-type]
    )
