"""A request's bulky parts as the bytes that the pipe will carry. [front]

Packed once, a request is passed on, kept for a replay and sent to several rows as bytes, however
many values are in it; no other hand in the front looks into these parts.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, cast, runtime_checkable

import msgspec
from msgspec.structs import replace

from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.request import ChatRequest


def packed_chat(chat: ChatRequest) -> ChatRequest:
    """Return the same request with its bulky parts packed. Raises InvalidRequest."""
    bias = packed(chat.sampling.logit_bias)
    return replace(
        chat,
        messages=packed(chat.messages),
        sampling=replace(chat.sampling, logit_bias=bias),
        stop=packed(chat.stop),
        template_kwargs=packed(chat.template_kwargs),
        tools=packed(chat.tools),
        prompt=packed(chat.prompt),
    )


def packed(part: Any) -> Any:
    """Return a value as MessagePack that other messages may hold. Raises InvalidRequest."""
    if isinstance(part, msgspec.Raw):
        return part
    try:
        return msgspec.Raw(msgspec.msgpack.encode(part))
    except (OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the body holds what cannot be passed on: {error}") from error


def bulky_parts(chat: ChatRequest) -> tuple[msgspec.Raw, ...]:
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


def nbytes(chat: ChatRequest) -> int:
    """Return the bytes of a packed request's bulky parts, its constraint included."""
    packed_parts = sum(memoryview(part).nbytes for part in bulky_parts(chat))
    return packed_parts + len(msgspec.msgpack.encode(chat.constraint))


@runtime_checkable
class Packable(Protocol):
    """What knows its own bulky parts."""

    def packed(self) -> Self:
        """Return the same with its bulky parts packed."""


def in_packs(parsed: Any) -> Any:
    """Return what a dialect's `parse` made of a body, with its bulky parts packed."""
    match parsed:
        case tuple():
            return tuple(map(in_packs, parsed))
        case ChatRequest():
            return packed_chat(parsed)
        case list():
            return packed(parsed)
        case Packable():
            return parsed.packed()
        case _:
            return parsed
