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


def too_much(value: Any, levels: int, most: int) -> str | None:
    """Say what a JSON value has too much of: levels of lists and objects, or values in all.

    None where it has neither. Each level is counted before it is looked into.
    """
    level, count = [value], 1
    for _ in range(levels + 1):
        outer = [it for it in level if isinstance(it, dict | list)]
        if not outer:
            return None
        count += sum(map(len, outer))
        if count > most:
            return f"more than {most} values"
        level = [inner for it in outer for inner in (it.values() if isinstance(it, dict) else it)]
    return f"nested deeper than {levels} levels"


def _shown(value: Any) -> str:
    """A short scalar as it was given; nothing for what is long or may be somebody's text."""
    if isinstance(value, dict | list) or value is None:
        return ""
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
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
