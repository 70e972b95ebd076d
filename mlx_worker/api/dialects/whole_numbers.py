"""Whole numbers that a body writes as floats: `4.0` for `4`.

JSON has one kind of number, and clients in languages with one kind write all of theirs with a
fraction. msgspec takes a float for no integer, so a body that does not fit is read once more.
[front]
"""

from __future__ import annotations

from typing import Any, Final

LEVELS: Final = 2
"""Lists in lists: several prompts, each of token ids."""


def with_whole_numbers(body: Any) -> Any:
    """Return a body whose fields' whole numbers are integers; objects inside stay as they are.

    What is free in form (tools, schemas, template arguments) is an object, and is the caller's.
    """
    if not isinstance(body, dict):
        return body
    return {name: _whole(value, LEVELS) for name, value in body.items()}


def _whole(value: Any, levels: int) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and levels:
        return [_whole(item, levels - 1) for item in value]
    return value
