"""How a chat completion asks for reasoning, in the fields of several servers.

OpenAI has `reasoning_effort`; OpenRouter has `reasoning`; `thinking` is that of DeepSeek, GLM and
Kimi. All of them become the arguments of the model's template.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlx_worker.api.dialects.fields import (
    ShortText,
    build_template_kwargs,
    first_not_none,
    refuse_unsupported,
)

if TYPE_CHECKING:
    from mlx_worker.api.dialects.fields import CommonFields


class ChatThinking(msgspec.Struct, frozen=True):
    """Whether the model thinks first, if its template has a switch for it."""

    type: Literal["enabled", "disabled", "adaptive", "auto"]


class ChatReasoning(msgspec.Struct, frozen=True):
    """How much the model reasons; `exclude`: the response is not to contain the reasoning."""

    effort: ShortText | None = None
    enabled: bool | None = None
    exclude: bool | None = None


def build_reasoning_kwargs(
    body: CommonFields,
    reasoning_effort: str | None,
    reasoning: ChatReasoning | None,
    thinking: bool | ChatThinking | None,
) -> dict[str, Any]:
    """Return the template's arguments. Raises UnsupportedField for reasoning that is excluded."""
    reasoning = reasoning or ChatReasoning()
    refuse_unsupported({"reasoning.exclude": reasoning.exclude is True})
    effort = first_not_none(reasoning_effort, reasoning.effort)
    kwargs = build_template_kwargs(body, effort)
    switch = first_not_none(_thinking_switch(thinking), reasoning.enabled)
    return kwargs if switch is None else {"enable_thinking": switch} | kwargs


def _thinking_switch(thinking: bool | ChatThinking | None) -> bool | None:
    if isinstance(thinking, ChatThinking):
        return None if thinking.type == "auto" else thinking.type != "disabled"
    return thinking
