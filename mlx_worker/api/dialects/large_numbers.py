"""Numbers beyond 64 bits where they do no harm: in tools, and in what a model wrote earlier.

JSON has no largest integer, the pipe to a model has. In a tool's schema such a number is a bound,
and any JavaScript client rounds it: it goes on as a double. The arguments of an earlier call go on
as JSON text, in which every digit stays. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.api.dialects.fields import check_portable, is_beyond_64_bits
from mlx_worker.limits import check_depth, check_values

if TYPE_CHECKING:
    from collections.abc import Sequence

Call = dict[str, Any]


def rounded(field: str, value: Any, most: int) -> Any:
    """Return a JSON value, its larger integers as doubles; the same object where there are none.

    Raises InvalidRequest for more than `most` values, for a deep nest and for what no double holds.
    """
    check_values(value, most, field)
    check_depth(value, field)
    if _fits(value):
        return value
    value = _rounded(value)
    check_portable(field, value)
    return value


def calls_in_digits(calls: Sequence[Call], field: str) -> list[Call]:
    """Return calls of earlier turns; arguments that are no text and too large are JSON text.

    Raises InvalidRequest for a number elsewhere in a call that the pipe cannot carry.
    """
    return [call if _fits(call) else _with_text(call, field) for call in calls]


def arguments_in_digits(arguments: dict[str, Any]) -> str | dict[str, Any]:
    """Return the arguments of a call, as JSON text where a number in them is too large."""
    return arguments if _fits(arguments) else msgspec.json.encode(arguments).decode()


def arguments_as_written(arguments: Any, field: str) -> str:
    """Return the arguments of an earlier call as text; a model may write no object, or nothing.

    Raises InvalidRequest for a deep nest.
    """
    if arguments is None:
        return "{}"
    if isinstance(arguments, str):
        return arguments
    check_depth(arguments, field)
    return msgspec.json.encode(arguments).decode()


def _fits(value: Any) -> bool:
    try:
        msgspec.msgpack.encode(value)
    except OverflowError:
        return False
    except RecursionError:
        return True  # depth is another check's
    return True


def _with_text(call: Call, field: str) -> Call:
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
        arguments = arguments_in_digits(function["arguments"])
        call = call | {"function": function | {"arguments": arguments}}
    check_portable(field, call)
    return call


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    if is_beyond_64_bits(value):
        try:
            return float(value)
        except OverflowError:
            return value
    return value
