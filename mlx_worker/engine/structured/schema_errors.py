"""Where in a JSON schema a fault is: llguidance says what is wrong, but not where.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker.engine.structured.schema_walk import LISTED, NAMED, SHARED, SINGLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Schema = dict[str, Any]
    Problem = Callable[[Schema], str]
    """What is wrong with a schema; "" where nothing is."""


def place_of(schema: Schema, fault: str, problem: Problem) -> str:
    """The innermost part that has this fault by itself, as ".properties.a"; "" for the whole.

    What is shared is looked into first: a part that only refers to a fault has it too.
    """
    shared = {name: schema[name] for name in SHARED if name in schema}
    path, part = "", schema
    while True:
        faulty = ((step, it) for step, it in _parts(part) if problem(shared | it) == fault)
        step, inner = next(faulty, ("", None))
        if inner is None:
            return path
        path, part = path + step, inner


def _parts(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for name in NAMED:
        if isinstance(named := schema.get(name), dict):
            yield from _schemas((f".{name}.{key}", it) for key, it in named.items())
    for name in LISTED:
        if isinstance(listed := schema.get(name), list):
            yield from _schemas((f".{name}[{place}]", it) for place, it in enumerate(listed))
    yield from _schemas((f".{name}", schema.get(name)) for name in SINGLE)


def _schemas(parts: Any) -> Iterator[tuple[str, Schema]]:
    return ((step, it) for step, it in parts if isinstance(it, dict))
