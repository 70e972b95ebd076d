"""How a chat completion asks for reasoning, in the fields of several servers.

OpenAI has `reasoning_effort`; OpenRouter has `reasoning`; `thinking` is that of DeepSeek, GLM and
Kimi. Switches and efforts become the arguments of the model's template.

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
from mlx_worker.config.sampler_types import ReasoningTokens

if TYPE_CHECKING:
    from mlx_worker.api.dialects.fields import CommonFields


class ChatThinking(msgspec.Struct, frozen=True):
    """Whether the model thinks first, if its template has a switch for it, and how long at most."""

    type: Literal["enabled", "disabled", "adaptive", "auto"]
    budget_tokens: ReasoningTokens | None = None


class ChatReasoning(msgspec.Struct, frozen=True):
    """How much the model reasons; `exclude`: the response is not to contain the reasoning."""

    effort: ShortText | None = None
    max_tokens: ReasoningTokens | None = None
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


def reasoning_budgets(
    reasoning: ChatReasoning | None, thinking: bool | ChatThinking | None
) -> dict[str, int | None]:
    """Return the budgets of reasoning in these fields, by their paths."""
    return {
        "reasoning.max_tokens": reasoning.max_tokens if reasoning else None,
        "thinking.budget_tokens": (
            thinking.budget_tokens if isinstance(thinking, ChatThinking) else None
        ),
    }


def _thinking_switch(thinking: bool | ChatThinking | None) -> bool | None:
    if isinstance(thinking, ChatThinking):
        return None if thinking.type == "auto" else thinking.type != "disabled"
    return thinking
