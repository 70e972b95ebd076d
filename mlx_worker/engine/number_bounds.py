"""Bounds of numbers that say "any 64-bit integer" or "any double", as generated schemas have them.

llguidance computes with 64 bits and fails at the edge. Where a bound there means no more than the
type, it is written in a way that can be kept: of integers the 1,024 lowest cannot be said then, of
doubles all can. Other bounds beyond 64 bits are refused, with their place. [child]
"""

from __future__ import annotations

import sys
from typing import Any, Final

from mlx_worker.engine.schema_walk import rewritten

Schema = dict[str, Any]

LOWEST: Final = -(2**63) + 1024
"""The lowest integer bound that llguidance keeps: it reads bounds as doubles."""

LOWER: Final = ("minimum", "exclusiveMinimum")
UPPER: Final = ("maximum", "exclusiveMaximum")


def with_kept_bounds(schema: Schema) -> Any:
    """Return the schema with bounds at the edge of 64 bits, or of doubles, in kept form."""
    return rewritten(schema, _kept)


def _kept(part: Schema) -> Schema:
    stated = part.get("type")
    kinds = stated if isinstance(stated, list) else [stated]
    if "integer" in kinds and "number" not in kinds:
        return _with_integer_bounds(part)
    most = sys.float_info.max
    free = {name for name in LOWER if _is_number(part.get(name)) and part[name] <= -most}
    free |= {name for name in UPPER if _is_number(part.get(name)) and part[name] >= most}
    return {name: value for name, value in part.items() if name not in free} if free else part


def _with_integer_bounds(part: Schema) -> Schema:
    edge = {name for name in LOWER if _is_number(part.get(name)) and part[name] < LOWEST}
    if not edge:
        return part
    kept = {name: value for name, value in part.items() if name not in edge}
    return kept if any(name in kept for name in LOWER) else kept | {"minimum": LOWEST}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
