"""A chat as the token ids that the model reads.

The model's own template makes the text. The head of a prompt is what every chat with the same
system prompt shares: it ends a segment, so that its KV can serve the next session. Runs beside the
decode loop, never in it. [child]
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

Messages = list[dict[str, Any]]

RESERVED = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
"""Names that steer the tokenizer itself; a request may speak to the template only."""

_PROBES = ("0", "z")
"""Two user turns that differ in their first character: what precedes them is the head."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`tokens` of the whole prompt, `head` of them shared, `system` the raw system prompt."""

    tokens: list[int]
    head: int
    system: str


def system_text(messages: Messages) -> str:
    """The raw system prompt of a chat; several parts are one text."""
    return "\n\n".join(str(message["content"] or "") for message in _system_part(messages))


def render(tokenizer: Any, messages: Messages, template_kwargs: dict[str, Any]) -> Prompt:
    """Apply the template and tokenize. Raises InvalidRequest with what the template refused."""
    if reserved := RESERVED & template_kwargs.keys():
        raise InvalidRequest(
            f"chat_template_kwargs: {min(reserved)!r} is not the template's to be told",
            param="chat_template_kwargs",
        )
    tokens = _tokens(tokenizer, messages, template_kwargs, add_generation_prompt=True)
    if not tokens:
        raise InvalidRequest("the chat template made an empty prompt", param="messages")
    head = head_tokens(tokenizer, _system_part(messages), template_kwargs)
    # The last token is never part of the head: the model must read at least one.
    shared = min(_common(head, tokens), len(tokens) - 1)
    return Prompt(tokens, shared, system_text(messages))


def head_tokens(tokenizer: Any, system: Messages, template_kwargs: dict[str, Any]) -> list[int]:
    """What every chat that begins with these system messages starts with; [] if nothing."""
    try:
        first, second = (
            _tokens(
                tokenizer,
                [*system, {"role": "user", "content": probe}],
                template_kwargs,
                add_generation_prompt=False,
            )
            for probe in _PROBES
        )
    except InvalidRequest:
        return []
    return first[: _common(first, second)]


def warm_head(tokenizer: Any, system_prompt: str) -> list[int]:
    """The tokens that a warmed system prompt puts into the cache; none for an empty one."""
    if not system_prompt:
        return []
    return head_tokens(tokenizer, [{"role": "system", "content": system_prompt}], {})


def _system_part(messages: Messages) -> Messages:
    end = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    return messages[:end]


def _tokens(
    tokenizer: Any, messages: Messages, kwargs: dict[str, Any], *, add_generation_prompt: bool
) -> list[int]:
    if not tokenizer.has_chat_template:
        raise InvalidRequest("this model has no chat template", param="messages")
    try:
        return list(
            tokenizer.apply_chat_template(
                messages, **kwargs, add_generation_prompt=add_generation_prompt
            )
        )
    except (TemplateError, TypeError, KeyError, ValueError, AttributeError) as error:
        # A template is a program of the model's author: it may refuse a chat in any of these ways.
        raise InvalidRequest(
            f"the model's chat template refuses these messages: {error}", param="messages"
        ) from error


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
