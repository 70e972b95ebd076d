"""What parsing has to know of a model: its defaults, its settings and its capacity.

A request's own fields go first: a system message of its own, its own template arguments. Stop
strings are added to its own. The settings are added where a body is parsed, before its parts are
packed.

[front]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.system_lines import drop_head_lines
from mlx_worker.config.schema import Defaults
from mlx_worker.config.schema.model_types import DROPPED_LINES
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.request import LoopRule

if TYPE_CHECKING:
    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.wire.request import ChatRequest


class RequestCapacity(NamedTuple):
    """How many requests a model accepts at a time, running and queued together."""

    model: str
    limit: int

    def check_choices(self, choices: int, field: str) -> None:
        """Raise InvalidRequest if one body asks for more choices than the model ever accepts."""
        if choices > self.limit:
            raise InvalidRequest(
                f"{field}: {choices} choices; model {self.model!r} takes {self.limit} requests at"
                " a time",
                param=field,
            )


class ModelSettings(NamedTuple):
    """What one model's configuration adds to a request, and drops of it.

    `reasoning_budgets` are tokens of reasoning, by effort; a dialect's parser reads them.
    """

    system_prompt: str | None
    template_kwargs: dict[str, Any]
    stop: tuple[str, ...]
    reasoning_budgets: dict[str, int]
    loop_rule: LoopRule | None
    drop_system_lines: tuple[str, ...] = DROPPED_LINES

    @classmethod
    def of(cls, config: ModelConfig) -> ModelSettings:
        """Return what this configuration adds to a request, and drops of it."""
        repeats = config.loop_guard_repeats
        return cls(
            config.system_prompt,
            config.chat_template_kwargs,
            tuple(config.stop),
            config.reasoning_budgets,
            None if repeats is None else LoopRule(repeats, config.loop_guard_tokens),
            tuple(config.drop_system_lines),
        )

    def apply_to(self, chat: ChatRequest) -> tuple[ChatRequest, int]:
        """Return a chat with these settings, and how many lines of its system prompt are dropped.

        A raw prompt has no system prompt and no template.
        """
        messages, dropped = drop_head_lines(chat.messages, self.drop_system_lines)
        return self._add_to(replace(chat, messages=messages) if dropped else chat), dropped

    def _add_to(self, chat: ChatRequest) -> ChatRequest:
        if not (self.system_prompt or self.template_kwargs or self.stop or self.loop_rule):
            return chat
        stop = list(dict.fromkeys([*chat.stop, *self.stop]))
        if chat.prompt is not None:
            return replace(chat, stop=stop, loop_rule=self.loop_rule)
        messages = chat.messages
        if self.system_prompt and all(message["role"] != "system" for message in messages):
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        return replace(
            chat,
            messages=messages,
            stop=stop,
            loop_rule=self.loop_rule,
            template_kwargs=self.template_kwargs | chat.template_kwargs,
        )


class ModelTerms(msgspec.Struct, frozen=True):
    """The terms of one model; by default those of a model without a configuration."""

    defaults: Defaults = Defaults()
    capacity: RequestCapacity = RequestCapacity("", sys.maxsize)
    settings: ModelSettings = ModelSettings(None, {}, (), {}, None)


TermsLookup = Callable[[str | None], ModelTerms]
"""Returns the terms of the model that a request names. Raises UnknownModel."""


def default_terms(_model: str | None) -> ModelTerms:
    """Return the terms of a model without a configuration."""
    return ModelTerms()
