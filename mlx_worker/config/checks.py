"""What a model's section may not say, beyond what its types refuse. [both]"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.validation import too_much

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Complain = Callable[[str, str], Exception]
    """Called with (key, problem): the error to raise."""

SET_BY_THE_NODE: Final = frozenset(
    {
        *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY"),
        *("TOKENIZERS_PARALLELISM", "TMPDIR"),
    }
)
"""Variables that every child gets from the node: a model's `env` cannot set them."""

RESERVED_ARGUMENTS: Final = frozenset(
    {
        *("add_generation_prompt", "chat_template", "continue_final_message", "conversation"),
        *("documents", "kwargs", "max_length", "padding", "return_assistant_tokens_mask"),
        *("return_dict", "return_tensors", "sanitize_control_tokens", "self", "tokenize"),
        *("tokenizer_kwargs", "tools", "truncation"),
    }
)
"""Arguments that steer the tokenizer itself: `chat_template_kwargs` is for the template only."""

_DEEPEST: Final = 64
_MOST_VALUES: Final = 10_000
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST: Final = 1 << 63
_SCALARS: Final = (str, bool, int, float)


def check_environment(env: Mapping[str, str], at: str, complain: Complain) -> None:
    """Raise the complaint about a variable that no process could be started with."""
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            raise complain(f"{at}.{name}", f"{name!r} is no name of a variable")
        if name in SET_BY_THE_NODE:
            raise complain(f"{at}.{name}", "the node itself sets this variable for its children")
        if "\0" in value:
            raise complain(f"{at}.{name}", "the value has a NUL character in it")


def check_template_arguments(given: Mapping[str, Any], at: str, complain: Complain) -> None:
    """Raise the complaint about an argument that could not be handed to a chat template."""
    for name, value in given.items():
        if name in RESERVED_ARGUMENTS:
            raise complain(f"{at}.{name}", "is an argument of the tokenizer, not of the template")
        if (problem := too_much(value, _DEEPEST, _MOST_VALUES)) is not None:
            raise complain(f"{at}.{name}", f"is {problem}")
        for scalar in _scalars_in(value):
            if not isinstance(scalar, _SCALARS):
                raise complain(f"{at}.{name}", f"{scalar} is no text, number, true or false")
            if isinstance(scalar, int) and not -_LARGEST <= scalar < _LARGEST:
                raise complain(f"{at}.{name}", f"{scalar} has more than 64 bits")


def _scalars_in(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            for inner in value.values():
                yield from _scalars_in(inner)
        case list():
            for inner in value:
                yield from _scalars_in(inner)
        case _:
            yield value
