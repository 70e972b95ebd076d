"""What a model's configuration adds to each of its requests, in whatever dialect they came. [front]

A request's own words go first: a system turn of its own, its own template arguments. Stop strings
are added to its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mlx_worker.api.dialect import Call

if TYPE_CHECKING:
    from mlx_worker.config import ModelConfig
    from mlx_worker.wire.messages import ChatRequest

C = TypeVar("C", bound=Call)


def with_settings(call: C, model: ModelConfig) -> C:
    """Return the call with what the model's configuration adds to each of its chats."""
    if not (model.system_prompt or model.chat_template_kwargs or model.stop):
        return call
    return replace(call, chats=[chat_with_settings(chat, model) for chat in call.chats])


def chat_with_settings(chat: ChatRequest, model: ModelConfig) -> ChatRequest:
    """Return one chat with the same; a raw prompt has no system prompt and no template."""
    stop = list(dict.fromkeys([*chat.stop, *model.stop]))
    if chat.prompt is not None:
        return msgspec.structs.replace(chat, stop=stop)
    messages = chat.messages
    if model.system_prompt and all(message["role"] != "system" for message in messages):
        messages = [{"role": "system", "content": model.system_prompt}, *messages]
    return msgspec.structs.replace(
        chat,
        messages=messages,
        stop=stop,
        template_kwargs=model.chat_template_kwargs | chat.template_kwargs,
    )
