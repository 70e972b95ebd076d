"""What a value that does not fit its type has to say: where it stands, what it is, what fits.

msgspec checks types and limits at the borders (configuration, request bodies); this turns its
error and the raw value into one sentence that names field, value and limit. [both]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import msgspec

IS_REQUIRED = "is required"

_LONGEST_SHOWN = 60


def explain(error: msgspec.ValidationError, raw: Any) -> tuple[str, str]:
    """(path of the field, problem), e.g. ("models[0].id", "expected `str`, got `int` (3)")."""
    problem, _, place = str(error).partition(" - at `")
    path = place.rpartition("$")[2].strip("`.")
    missing = re.search(r"missing required field `(\w+)`", problem)
    if missing:
        return f"{path}.{missing[1]}".lstrip("."), IS_REQUIRED
    return path, f"{problem[0].lower()}{problem[1:]}{_shown(_value_at(raw, path))}"


def deeper_than(value: Any, limit: int) -> bool:
    """Does a JSON value nest lists and objects deeper than this?"""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(outer, dict | list) for outer in level)


def _shown(value: Any) -> str:
    """A short scalar as it was given; nothing for what is long or may be somebody's text."""
    if isinstance(value, dict | list) or value is None:
        return ""
    text = repr(value)
    return f" (here {text})" if len(text) <= _LONGEST_SHOWN else ""


def _value_at(raw: Any, path: str) -> Any:
    value = raw
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[key] if key else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value
