"""Describe a client and the model that the client is to use.

[front]
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.config.schema import KEY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

NO_KEY: Final = "unused"
"""Key for clients that require one, if the node requires none."""

SHELL_KEY: Final = f'"${{{KEY_VARIABLE}:-{NO_KEY}}}"'
"""The key as a shell expression, in double quotes."""

PYTHON_KEY: Final = f'os.environ.get("{KEY_VARIABLE}", "{NO_KEY}")'
"""The key as a Python expression."""

_LARGEST_ANSWER: Final = 32_000
_SHARE_OF_CONTEXT: Final = 4


@dataclass(frozen=True, slots=True)
class ClientTarget:
    """A model of a node: the node's base URL, the model's name, its context length in tokens.

    `context` is None where the node does not know the length, as before the first load of a model
    whose configuration states none.
    """

    url: str
    model: str
    context: int | None = None

    @property
    def api(self) -> str:
        """Return the base URL of OpenAI's paths."""
        return f"{self.url}/v1"

    @property
    def answer(self) -> int | None:
        """Return the longest answer, in tokens, that leaves most of the context free."""
        if self.context is None:
            return None
        return min(max(1, self.context // _SHARE_OF_CONTEXT), _LARGEST_ANSWER)


@dataclass(frozen=True, slots=True)
class ClientBlock:
    """A client: its name for the command, its own name, and how its block is written.

    `language` is the block's, as Markdown names languages. `place` says where the block goes,
    `notes` is what the documentation says besides, and `least_context` is the smallest context, in
    tokens, with which the client is of use.
    """

    name: str
    title: str
    language: str
    place: str
    write: Callable[[ClientTarget], str]
    notes: str = ""
    least_context: int = 0

    def advice(self, target: ClientTarget) -> str | None:
        """Return what to do about a model that the client cannot work with; None if it can."""
        if target.context is None or target.context >= self.least_context:
            return None
        return (
            f"{self.title} needs a context of {self.least_context} tokens, and {target.model!r} "
            f"has {target.context}: --model NAME chooses another model"
        )


def quoted(text: str) -> str:
    """Return a string literal that JSON, TOML, YAML, Python and JavaScript read alike."""
    return json.dumps(text, ensure_ascii=False)


def exports(**variables: str | int | None) -> str:
    """Return shell lines that export these variables; a value of None has none."""
    return "".join(
        f"export {name}={value if value == SHELL_KEY else shlex.quote(str(value))}\n"
        for name, value in variables.items()
        if value is not None
    )
