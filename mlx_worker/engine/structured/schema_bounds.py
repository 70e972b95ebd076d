"""Bounds of numbers in a JSON schema, within the range that llguidance supports.

llguidance makes an automaton of the digits, and fails on bounds near the ends of 64 bits, which
generators of schemas write for "any number" (`maximum` 18446744073709551615, 1e308). A bound closer
to zero allows no number that the schema forbids. [child]
"""

from __future__ import annotations

from typing import Any, Final

from mlx_worker.engine.structured.schema_walk import rewritten

Schema = dict[str, Any]

FARTHEST: Final = 10**18
"""The bound farthest from zero that llguidance keeps for numbers that may have a fraction."""

LOWEST: Final = -(2**63) + 1024
"""The lowest bound that llguidance keeps for integers; for the highest, any will do."""

UPPER: Final = ("maximum", "exclusiveMaximum")
LOWER: Final = ("minimum", "exclusiveMinimum")


def within_reach(schema: Schema) -> Any:
    """Return a schema whose bounds llguidance supports, in all parts."""
    return rewritten(schema, _within_reach)


def _within_reach(part: Schema) -> Schema:
    stated = part.get("type")
    kinds = stated if isinstance(stated, list) else [stated]
    whole = "integer" in kinds and "number" not in kinds
    lowest = LOWEST if whole else -FARTHEST
    closer: Schema = {name: lowest for name in LOWER if _bound(part, name) < lowest}
    if not whole:
        closer |= {name: FARTHEST for name in UPPER if _bound(part, name) > FARTHEST}
    return part | closer if closer else part


def _bound(part: Schema, name: str) -> float:
    """Return the bound of that name; 0, which is within reach, where there is none."""
    value = part.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
