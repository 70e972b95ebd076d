"""Where in a JSON schema a fault is: llguidance reports the fault, but not the place.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker.engine.structured.schema_walk import LISTED, NAMED, SHARED, SINGLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Schema = dict[str, Any]
    Problem = Callable[[Schema], str]
    """The fault of a schema; "" where there is none."""


def place_of(schema: Schema, fault: str, problem: Problem) -> str:
    """Return the innermost part that has this fault by itself, as ".properties.a"; "": the whole.

    Shared definitions come first: a part that only refers to a fault has the fault too.
    """
    shared = {name: schema[name] for name in SHARED if name in schema}
    path, part = "", schema
    while True:
        faulty = ((step, inner) for step, inner in _parts(part) if problem(shared | inner) == fault)
        step, inner = next(faulty, ("", None))
        if inner is None:
            return path
        path, part = path + step, inner


def _parts(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for name in NAMED:
        if isinstance(named := schema.get(name), dict):
            yield from _schemas((f".{name}.{key}", inner) for key, inner in named.items())
    for name in LISTED:
        if isinstance(listed := schema.get(name), list):
            yield from _schemas((f".{name}[{place}]", inner) for place, inner in enumerate(listed))
    yield from _schemas((f".{name}", schema.get(name)) for name in SINGLE)


def _schemas(parts: Any) -> Iterator[tuple[str, Schema]]:
    return ((step, part) for step, part in parts if isinstance(part, dict))
