"""A request's bulky parts as the bytes that the pipe will carry.

A request is packed once. Then it is passed on, kept for a replay and sent to several rows as
bytes, whatever the number of values in it; nothing else in the front reads these parts.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec.structs import replace

from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from mlx_worker.wire.request import ChatRequest


def pack_chat(chat: ChatRequest) -> ChatRequest:
    """Return the same request with its bulky parts packed. Raises InvalidRequest."""
    bias = pack_value(chat.sampling.logit_bias)
    return replace(
        chat,
        messages=pack_value(chat.messages),
        sampling=replace(chat.sampling, logit_bias=bias),
        stop=pack_value(chat.stop),
        template_kwargs=pack_value(chat.template_kwargs),
        tools=pack_value(chat.tools),
        prompt=pack_value(chat.prompt),
    )


def pack_value(value: Any) -> Any:
    """Return a value as MessagePack that other messages may hold. Raises InvalidRequest."""
    if isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.Raw(msgspec.msgpack.encode(value))
    except (OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the body has a value that cannot be encoded: {error}") from error


def packed_parts(chat: ChatRequest) -> tuple[msgspec.Raw, ...]:
    """Return the bulky parts of a packed request."""
    parts = (
        chat.messages,
        chat.sampling.logit_bias,
        chat.stop,
        chat.template_kwargs,
        chat.tools,
        chat.prompt,
    )
    return cast("tuple[msgspec.Raw, ...]", parts)


def packed_size(chat: ChatRequest) -> int:
    """Return the bytes of a packed request: bulky parts, constraint and prediction."""
    parts = sum(memoryview(part).nbytes for part in packed_parts(chat))
    rest = (chat.constraint, chat.prediction)
    return parts + sum(len(msgspec.msgpack.encode(part)) for part in rest)
