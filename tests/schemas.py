"""Random JSON schemas, small enough that a model which says anything comes to an end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

Schema = dict[str, Any]

DEEPEST = 3


def random_schema(random: Random) -> Schema:
    """An object, mostly, with definitions to refer to."""
    leaf = _leaf(random)
    root = _object(random, 0) if random.random() < 0.8 else _any(random, 0)
    return {**root, "$defs": {"leaf": leaf, "list": _array(random, DEEPEST)}}


def _any(random: Random, depth: int) -> Schema:
    if depth >= DEEPEST:
        return _leaf(random)
    kinds = [_leaf, _leaf, *(lambda r, kind=kind: kind(r, depth) for kind in NESTED)]
    made: Schema = random.choice(kinds)(random)
    return made


def _object(random: Random, depth: int) -> Schema:
    names = random.sample(["a", "b c", "größe", 'q"', "name", "x-y"], random.randint(1, 4))
    required = [name for name in names if random.random() < 0.6]
    return {
        "type": "object",
        "properties": {name: _any(random, depth + 1) for name in names},
        "required": required,
        "additionalProperties": False,
    }


def _array(random: Random, depth: int) -> Schema:
    least = random.randint(0, 2)
    bounds = {"minItems": least, "maxItems": least + random.randint(0, 2)}
    if random.random() < 0.2:
        fixed = [_any(random, depth + 1) for _ in range(random.randint(1, 2))]
        return {"type": "array", "prefixItems": fixed, "items": False, "minItems": len(fixed)}
    return {"type": "array", "items": _any(random, depth + 1), **bounds}


def _either(random: Random, depth: int) -> Schema:
    return {"anyOf": [_any(random, depth + 1) for _ in range(random.randint(2, 3))]}


def _reference(random: Random, depth: int) -> Schema:
    return {"$ref": f"#/$defs/{random.choice(['leaf', 'list'])}"}


NESTED = (_object, _array, _either, _reference)


def _leaf(random: Random) -> Schema:
    low = random.randint(-50, 50)
    least = random.randint(0, 4)
    leaves: list[Schema] = [
        {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 200)},
        {"type": "number", "exclusiveMinimum": low, "maximum": low + random.randint(1, 9)},
        {"type": "string", "minLength": least, "maxLength": least + random.randint(0, 6)},
        {
            "type": "string",
            "pattern": random.choice(["^[a-f]{1,5}$", "^(on|off)-[0-9]{1,4}$", "^.{0,4}ou$"]),
        },
        {"type": "string", "format": random.choice(["date", "uuid", "ipv4"])},
        {"enum": random.sample([1, 2.5, "a", "b\n", None, True, [1], {"k": 1}], 3)},
        {"const": random.choice(["so", 7, None])},
        {"type": "boolean"},
        {"type": ["null", "boolean"]},
    ]
    return random.choice(leaves)
