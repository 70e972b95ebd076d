"""A conversation as the text that the model's own chat template makes of it.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.engine.templates.continuation import CONTINUED, continued_text
from mlx_worker.engine.templates.rules import REFUSALS, fit_to_template
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from mlx_worker.wire.request import Opening

Messages = list[dict[str, Any]]

_SWITCHES: Final = ("enable_thinking", "thinking")
"""Names that templates have for the switch of reasoning."""


def chat_text(
    tokenizer: Any,
    messages: Messages,
    kwargs: dict[str, Any],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Return the text that the template makes of a chat. Raises InvalidRequest.

    `add_generation_prompt`: with the words that an answer follows.
    """
    if not tokenizer.has_chat_template:
        raise InvalidRequest("this model has no chat template", param="messages")
    try:
        return str(
            tokenizer.apply_chat_template(
                fit_to_template(tokenizer, messages),
                **_with_both_names(kwargs, tokenizer),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )
    except REFUSALS as error:
        raise InvalidRequest(
            f"the model's chat template refuses these messages: {error}", param="messages"
        ) from error


def opened_text(
    tokenizer: Any, messages: Messages, kwargs: dict[str, Any], opening: Opening
) -> str:
    """Return the text of a chat and of what the answer begins with. Raises InvalidRequest."""
    if opening != "continued":
        return chat_text(tokenizer, messages, kwargs, add_generation_prompt=opening == "turn")
    continued = kwargs | CONTINUED
    return continued_text(tokenizer, messages, lambda: chat_text(tokenizer, messages, continued))


def system_messages(messages: Messages) -> Messages:
    """Return the system messages that a chat begins with."""
    end = next((at for at, turn in enumerate(messages) if turn["role"] != "system"), len(messages))
    return messages[:end]


def system_text(messages: Messages) -> str:
    """Return the raw system prompt of a chat; several messages are one text."""
    return "\n\n".join(str(message["content"] or "") for message in system_messages(messages))


def _with_both_names(kwargs: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Return a template's arguments with a switch of reasoning under both names.

    A template takes no notice of the name that it does not know; a program of mlx_lm's would
    refuse it, and has its switch from mlx_lm.
    """
    given = [name for name in _SWITCHES if name in kwargs]
    if len(given) != 1 or tokenizer._chat_template is not None:  # noqa: SLF001
        return kwargs
    return dict.fromkeys(_SWITCHES, kwargs[given[0]]) | kwargs
