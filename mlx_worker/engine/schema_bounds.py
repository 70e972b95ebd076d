"""Bounds of numbers in a JSON schema, as far as llguidance can keep them.

llguidance makes an automaton of the digits, and fails on bounds near the ends of 64 bits, which
generators of schemas write for "any number" (`maximum` 18446744073709551615, 1e308). A bound closer
to zero allows no number that the schema forbids. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.engine.schema_faults import LISTED, NAMED, SINGLE

if TYPE_CHECKING:
    Schema = dict[str, Any]

FARTHEST: Final = 10**18
"""The bound farthest from zero that llguidance keeps, for integers and for other numbers."""

_UPPER: Final = ("maximum", "exclusiveMaximum")
_LOWER: Final = ("minimum", "exclusiveMinimum")


def within_reach(schema: Schema) -> Schema:
    """Return a schema whose bounds llguidance can keep, in it and in all its parts."""
    made = {key: _bound(key, value) for key, value in schema.items()}
    for name in NAMED:
        if isinstance(named := made.get(name), dict):
            made[name] = {key: _part(part) for key, part in named.items()}
    for name in LISTED:
        if isinstance(listed := made.get(name), list):
            made[name] = [_part(part) for part in listed]
    for name in SINGLE:
        if name in made:
            made[name] = _part(made[name])
    return made


def _part(part: Any) -> Any:
    return within_reach(part) if isinstance(part, dict) else part


def _bound(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if key in _UPPER and value > FARTHEST:
        return FARTHEST
    return -FARTHEST if key in _LOWER and value < -FARTHEST else value
