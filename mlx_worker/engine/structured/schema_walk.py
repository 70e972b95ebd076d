"""The parts of a JSON schema that are schemas themselves, and not values in it.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Schema = dict[str, Any]

SHARED: Final = ("$defs", "definitions")
NAMED: Final = (*SHARED, "properties", "patternProperties")
LISTED: Final = ("prefixItems", "anyOf", "oneOf", "allOf", "items")
SINGLE: Final = ("items", "additionalProperties")
"""Keywords whose values have schemas by name, in a list, and alone."""


def rewritten(schema: Any, change: Callable[[Schema], Any]) -> Any:
    """Return the schema with `change` made to each of its parts, the outer ones first.

    A part that is not changed is the same object as before.
    """
    changed = change(schema) if isinstance(schema, dict) else schema
    if not isinstance(changed, dict):
        return changed
    inner: Schema = {}
    for name in NAMED:
        if isinstance(named := changed.get(name), dict):
            inner[name] = {key: rewritten(part, change) for key, part in named.items()}
    for name in LISTED:
        if isinstance(listed := changed.get(name), list):
            inner[name] = [rewritten(part, change) for part in listed]
    for name in SINGLE:
        if isinstance(single := changed.get(name), dict):
            inner[name] = rewritten(single, change)
    different = {name for name, value in inner.items() if not _same(value, changed[name])}
    return changed | {name: inner[name] for name in different} if different else changed


def _same(new: Any, old: Any) -> bool:
    """Return True if nothing was rewritten: compared part by part, by identity."""
    if isinstance(new, dict) and isinstance(old, dict) and new is not old:
        return new.keys() == old.keys() and all(new[key] is old[key] for key in new)
    if isinstance(new, list):
        return all(a is b for a, b in zip(new, old, strict=True))
    return new is old
