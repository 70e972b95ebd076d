"""The assistant's last message left open, for an answer that continues it.

transformers leaves the message open (`continue_final_message`), and refuses where a template does
not show the message unchanged. That refusal quotes the whole conversation, so it is replaced here.
mlx_lm's own templates, which are programs, are checked by their output. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

CONTINUED: Final = {"continue_final_message": True}
"""The argument of the tokenizer beside the template's."""


def continued_text(tokenizer: Any, messages: list[dict[str, Any]], text: Callable[[], str]) -> str:
    """Return the text that ends with the last of `messages`. Raises InvalidRequest.

    `text` renders the conversation with the argument `CONTINUED`.
    """
    try:
        made = text()
    except InvalidRequest as error:
        if str(error.__cause__).startswith("continue_final_message"):
            raise _cannot() from None
        raise
    # transformers has checked Jinja templates.
    is_program = tokenizer._chat_template is not None  # noqa: SLF001  (mlx_lm has no public way)
    if is_program and not made.rstrip().endswith(str(messages[-1]["content"]).strip()):
        raise _cannot()
    return made


def _cannot() -> InvalidRequest:
    return InvalidRequest(
        "messages: the last message cannot be continued, because the model's chat template does"
        " not show the message unchanged",
        param="messages",
    )
