"""How a chat completion asks for reasoning, in the words of several servers.

OpenAI has `reasoning_effort`; OpenRouter has `reasoning`; `thinking` is that of DeepSeek, GLM and
Kimi. All of them become the arguments of the model's template. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlx_worker.api.dialects.fields import Word, first_given, refuse_unsupported, template_kwargs

if TYPE_CHECKING:
    from mlx_worker.api.dialects.chat.request import ChatBody


class ThinkingSwitch(msgspec.Struct, frozen=True):
    """Whether the model is to think first, where its template knows a switch."""

    type: Literal["enabled", "disabled", "adaptive", "auto"]


class Reasoning(msgspec.Struct, frozen=True):
    """How much is to be reasoned; `exclude`: the answer is not to tell it."""

    effort: Word | None = None
    enabled: bool | None = None
    exclude: bool | None = None


def reasoning_kwargs(asked: ChatBody) -> dict[str, Any]:
    """Return the template's arguments. Raises UnsupportedField for reasoning that is excluded."""
    reasoning = asked.reasoning or Reasoning()
    refuse_unsupported({"reasoning.exclude": reasoning.exclude is True})
    told = template_kwargs(asked, first_given(asked.reasoning_effort, reasoning.effort))
    switch = first_given(_switch(asked.thinking), reasoning.enabled)
    return told if switch is None else {"enable_thinking": switch} | told


def _switch(thinking: bool | ThinkingSwitch | None) -> bool | None:
    if isinstance(thinking, ThinkingSwitch):
        return None if thinking.type == "auto" else thinking.type != "disabled"
    return thinking
