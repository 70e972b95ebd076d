"""What a model's configuration adds to each of its requests, in whatever dialect they came. [front]

A request's own words go first: a system turn of its own, its own template arguments. Stop strings
are added to its own. The settings are added where a body is parsed, before its parts are packed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from msgspec.structs import replace

from mlx_worker.api.dialects.base import Call

if TYPE_CHECKING:
    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.wire.request import ChatRequest

C = TypeVar("C", bound=Call)


class ModelSettings(NamedTuple):
    """What one model's configuration adds to a request."""

    system_prompt: str | None
    template_kwargs: dict[str, Any]
    stop: tuple[str, ...]


def settings_of(model: ModelConfig) -> ModelSettings:
    """Return what this configuration adds to a request."""
    return ModelSettings(model.system_prompt, model.chat_template_kwargs, tuple(model.stop))


def call_with_settings(call: C, added: ModelSettings) -> C:
    """Return a call with the settings of its model."""
    if not any(added):
        return call
    return replace(call, chats=[chat_with_settings(chat, added) for chat in call.chats])


def chat_with_settings(chat: ChatRequest, added: ModelSettings) -> ChatRequest:
    """Return one chat with the settings; a raw prompt has no system prompt and no template."""
    stop = list(dict.fromkeys([*chat.stop, *added.stop]))
    if chat.prompt is not None:
        return replace(chat, stop=stop)
    turns = chat.messages
    if added.system_prompt and all(turn["role"] != "system" for turn in turns):
        turns = [{"role": "system", "content": added.system_prompt}, *turns]
    return replace(
        chat,
        messages=turns,
        stop=stop,
        template_kwargs=added.template_kwargs | chat.template_kwargs,
    )
