"""Whether a JSON schema has no finite document: a part that requires itself without end.

llguidance keeps such a schema faithfully, and the answer runs into its token limit. Only what can
be known cheaply is looked for; a schema in doubt is let through. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from mlx_worker.limits import json_values

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    Schema = dict[str, Any]

REFERENCES: Final = 200
"""Different ones up to which a schema is looked at: the work grows with their square."""


def is_endless(schema: Schema) -> bool:
    """True if every document of this schema contains itself."""
    waiting = {
        part["$ref"]
        for part in json_values(schema)
        if isinstance(part, dict) and isinstance(part.get("$ref"), str)
    }
    if not waiting or len(waiting) > REFERENCES:
        return False
    targets = {reference: _target(schema, reference) for reference in waiting}
    while ended := {it for it in waiting if _ends(targets[it], waiting)}:
        waiting -= ended
    return not _ends(schema, waiting)


def _target(schema: Schema, reference: str) -> Any:
    """What a reference means; None for what is not in this schema."""
    if not reference.startswith("#"):
        return None
    part: Any = schema
    for step in reference[1:].split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(part, dict):
            part = part.get(name)
        elif isinstance(part, list) and name.isdecimal() and int(name) < len(part):
            part = part[int(name)]
        else:
            return None
    return part


def _ends(part: Any, waiting: AbstractSet[str]) -> bool:
    """True if a part has a finite document, or may have one; `waiting` references have none yet."""
    if not isinstance(part, dict) or "enum" in part or "const" in part:
        return True
    if part.get("$ref") in waiting:
        return False
    needed = [*_listed(part.get("allOf"))]
    if part.get("type") == "object":
        properties = part.get("properties")
        named = properties if isinstance(properties, dict) else {}
        names = [name for name in _listed(part.get("required")) if isinstance(name, str)]
        needed += [named[name] for name in names if name in named]
    least = part.get("minItems")
    if part.get("type") == "array" and isinstance(least, int) and least > 0:
        first = _listed(part.get("prefixItems"))[:least]
        needed += first or [part.get("items")]
    if not all(_ends(it, waiting) for it in needed):
        return False
    choices = [it for name in ("anyOf", "oneOf") if (it := _listed(part.get(name)))]
    return all(any(_ends(it, waiting) for it in choice) for choice in choices)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
