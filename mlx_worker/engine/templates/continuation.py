"""The assistant's last message left open, for an answer that continues it.

transformers leaves it open (`continue_final_message`), and refuses where a template does not show
the message as it is. Its refusal quotes the whole conversation, so that another is given here;
templates of mlx_lm's own, which are programs, are checked by what they made. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

CONTINUED: Final = {"continue_final_message": True}
"""What the tokenizer is told beside the template's arguments."""


def continued_text(tokenizer: Any, messages: list[dict[str, Any]], text: Callable[[], str]) -> str:
    """Return the text that ends with the last of `messages`. Raises InvalidRequest.

    `text` renders the conversation, having told the tokenizer `CONTINUED`.
    """
    try:
        made = text()
    except InvalidRequest as error:
        if str(error.__cause__).startswith("continue_final_message"):
            raise _cannot() from None
        raise
    # Of a Jinja template, transformers has made sure of it.
    is_program = tokenizer._chat_template is not None  # noqa: SLF001  (mlx_lm tells no other way)
    if is_program and not made.rstrip().endswith(str(messages[-1]["content"]).strip()):
        raise _cannot()
    return made


def _cannot() -> InvalidRequest:
    return InvalidRequest(
        "messages: the model's chat template does not show the last message as it is, so the"
        " message cannot be continued",
        param="messages",
    )
