"""Explain why a value does not fit its type: where it is, what it is, and what would fit.

msgspec checks types and limits of the configuration and of request bodies. This module turns its
error and the raw value into one sentence that names field, value and limit. [both]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import msgspec

IS_REQUIRED = "is required"

_LONGEST_SHOWN = 60

_NO_SUCH_VALUE: Final = "Invalid enum value"
"""How msgspec begins what it says of a value that is not among those of a `Literal`."""


def explain(error: msgspec.ValidationError, raw: Any, shape: Any) -> tuple[str, str]:
    """Return (path, problem), such as ("models[0].id", "expected `str`, got `int` (3)").

    `shape` is the type that the raw value does not fit.
    """
    problem, _, place = str(error).partition(" - at `")
    path = place.rpartition("$")[2].strip("`.")
    missing = re.search(r"missing required field `(\w+)`", problem)
    if missing:
        return f"{path}.{missing[1]}".lstrip("."), IS_REQUIRED
    if problem.startswith(_NO_SUCH_VALUE) and (allowed := _values_of(shape, path)):
        return path, f"{named(_value_at(raw, path))} is not one of {', '.join(allowed)}"
    return path, f"{problem[0].lower()}{problem[1:]}{_quoted_value(_value_at(raw, path))}"


def too_much(value: Any, levels: int, most: int) -> str | None:
    """Return what a JSON value has too much of: levels of lists and objects, or values in all.

    None if it has neither. Each level is counted before it is looked into.
    """
    level, count = [value], 1
    for _ in range(levels + 1):
        outer = [item for item in level if isinstance(item, dict | list)]
        if not outer:
            return None
        count += sum(map(len, outer))
        if count > most:
            return f"more than {most} values"
        level = [
            inner for item in outer for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return f"nested deeper than {levels} levels"


def _quoted_value(value: Any) -> str:
    """Return a short scalar as it was given; "" for a value that is long or may be user text."""
    if isinstance(value, dict | list) or value is None:
        return ""
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return ""
    text = repr(value)
    return f" (here {text})" if len(text) <= _LONGEST_SHOWN else ""


def named(value: Any) -> str:
    """Return a short scalar as it was given, and "the value" for any other value."""
    shown = _quoted_value(value)
    return shown.removeprefix(" (here ").removesuffix(")") if shown else "the value"


def _values_of(shape: Any, path: str) -> list[str]:
    """Return the values that would do at this path; [] where they are not listed."""
    kinds = [inspect.type_info(shape)]
    for key, _ in re.findall(r"([^.\[\]]+)|\[(\.\.\.|\d+)\]", path):
        kinds = [inner for kind in _members(kinds) for inner in _inside(kind, key)]
    listed = [kind for kind in _members(kinds) if isinstance(kind, inspect.LiteralType)]
    return [repr(value) for kind in listed for value in kind.values]


def _members(kinds: Iterable[inspect.Type]) -> Iterator[inspect.Type]:
    """Yield the kinds, a union's members in its place."""
    for kind in kinds:
        match kind:
            case inspect.UnionType(types=types):
                yield from _members(types)
            case inspect.Metadata(type=inner):
                yield from _members([inner])
            case _:
                yield kind


def _inside(kind: inspect.Type, key: str) -> list[inspect.Type]:
    """Return what a kind has under this key, or as an item where the key is ""."""
    match kind:
        case inspect.StructType(fields=fields):
            return [field.type for field in fields if key and field.encode_name == key]
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            return [] if key else [inner]
        case inspect.DictType(value_type=inner):
            return [] if key else [inner]
        case _:
            return []


def _value_at(raw: Any, path: str) -> Any:
    value = raw
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[key] if key else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value
