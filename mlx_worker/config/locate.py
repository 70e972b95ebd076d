"""Resolve `~` and environment variables in the paths of the configuration.

The shell would do so on a command line; in a file nothing else does. [both]
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_VARIABLE: Final = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)


def expand_variables(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the text with `$NAME` and `${NAME}` replaced, and `$$` as a dollar sign.

    Raises ValueError, which names the variable, where one is not set or is empty: a path without
    one of its parts would be another path.
    """
    known = os.environ if environ is None else environ

    def value_of(found: re.Match[str]) -> str:
        dollar, *names = found.groups()
        name = "".join(filter(None, names))
        value = dollar or known.get(name)
        if not value:
            state = "is empty" if name in known else "is not set"
            raise ValueError(f"{text!r}: the variable {name} {state} in the environment")
        return value

    return _VARIABLE.sub(value_of, text)


def expand_user(path: Path) -> Path:
    """Return the path with its `~` resolved; unchanged if there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
