"""Parts of a JSON schema that have no finite document, because they require themselves.

With such a part in a grammar the answer runs into its token limit, or comes to a point where
nothing may follow. So a schema without a finite document is refused, and a part without one is
removed before the schema is compiled: optional parts are left out, and of several alternatives the
others stay. Only cheap checks are made; a part in doubt stays. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from mlx_worker.engine.structured.schema_walk import rewritten
from mlx_worker.limits import json_values

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    Schema = dict[str, Any]

REFERENCES: Final = 200
"""Different references up to which a schema is checked: the work grows with their square."""


def is_endless(schema: Schema) -> bool:
    """Return True if every document of this schema would contain itself."""
    dead = dead_references(schema)
    return bool(dead) and not _ends(schema, dead)


def without_endless_parts(schema: Schema) -> Schema:
    """Return the schema with `false` for each reference to what has no finite document."""
    dead = dead_references(schema)
    if not dead:
        return schema
    kept = rewritten(schema, lambda part: False if part.get("$ref") in dead else part)
    return kept if isinstance(kept, dict) else schema


def dead_references(schema: Schema) -> set[str]:
    """Return the references of a schema to parts that have no finite document."""
    waiting = {
        part["$ref"]
        for part in json_values(schema)
        if isinstance(part, dict) and isinstance(part.get("$ref"), str)
    }
    if len(waiting) > REFERENCES:
        return set()
    targets = {reference: _target(schema, reference) for reference in waiting}
    while ended := {name for name in waiting if _ends(targets[name], waiting)}:
        waiting -= ended
    return waiting


def _target(schema: Schema, reference: str) -> Any:
    """Return what a pointer into this schema means; None for any other reference."""
    first, *steps = reference.split("/")
    if first != "#":
        return None
    part: Any = schema
    for step in steps:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(part, dict):
            part = part.get(name)
        elif isinstance(part, list) and name.isdecimal() and int(name) < len(part):
            part = part[int(name)]
        else:
            return None
    return part


def _ends(part: Any, waiting: AbstractSet[str]) -> bool:
    """Return True if a part has a finite document without the `waiting` references."""
    if not isinstance(part, dict) or "enum" in part or "const" in part:
        return True
    if part.get("$ref") in waiting:
        return False
    if not all(_ends(other, waiting) for other in _listed(part.get("allOf"))):
        return False
    choices = [choice for name in ("anyOf", "oneOf") if (choice := _listed(part.get(name)))]
    if not all(any(_ends(other, waiting) for other in choice) for choice in choices):
        return False
    stated = part.get("type")
    kinds = stated if isinstance(stated, list) else [stated]
    return any(_ends_as(kind, part, waiting) for kind in kinds)


def _ends_as(kind: Any, part: Schema, waiting: AbstractSet[str]) -> bool:
    match kind:
        case "object":
            return _object_ends(part, waiting)
        case "array":
            return _array_ends(part, waiting)
    return True


def _object_ends(part: Schema, waiting: AbstractSet[str]) -> bool:
    properties, patterns = _mapping(part.get("properties")), _mapping(part.get("patternProperties"))
    others = [*patterns.values(), part.get("additionalProperties", True)]
    more = any(other is not False and _ends(other, waiting) for other in others)
    for name in _listed(part.get("required")):
        if not (_ends(properties[name], waiting) if name in properties else more):
            return False
    ended = sum(_ends(schema, waiting) for schema in properties.values())
    return more or _least(part, "minProperties") <= ended


def _array_ends(part: Schema, waiting: AbstractSet[str]) -> bool:
    least, first = _least(part, "minItems"), _listed(part.get("prefixItems"))
    needed = first[:least]
    if least > len(first):
        needed.append(part.get("items", True))
    return all(_ends(item, waiting) for item in needed)


def _least(part: Schema, name: str) -> int:
    value = part.get(name)
    return value if isinstance(value, int) else 0


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Schema:
    return value if isinstance(value, dict) else {}
