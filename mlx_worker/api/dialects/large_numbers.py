"""Accept integers beyond 64 bits where they are harmless: in tools, and in earlier calls.

JSON has no largest integer, the pipe to a model has. In a tool's schema such a number is a bound,
which any JavaScript client rounds: it is passed on as a double. The arguments of an earlier call
are passed on as JSON text, in which every digit stays.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.api.dialects.fields import check_encodable, is_beyond_64_bits
from mlx_worker.limits import check_depth, check_values

if TYPE_CHECKING:
    from collections.abc import Sequence

EarlierCall = dict[str, Any]


def round_large_numbers(field: str, value: Any, max_values: int) -> Any:
    """Return a JSON value with large integers as doubles; the same object if there are none.

    Raises InvalidRequest for more than `max_values` values, for deep nesting and for an integer
    that no double holds.
    """
    check_values(value, max_values, field)
    check_depth(value, field)
    if _is_encodable(value):
        return value
    value = _rounded(value)
    check_encodable(field, value)
    return value


def with_encodable_arguments(calls: Sequence[EarlierCall], field: str) -> list[EarlierCall]:
    """Return earlier calls, with arguments that the pipe cannot carry as JSON text.

    Raises InvalidRequest for a number elsewhere in a call that the pipe cannot carry.
    """
    return [call if _is_encodable(call) else _with_arguments_text(call, field) for call in calls]


def encodable_arguments(arguments: dict[str, Any]) -> str | dict[str, Any]:
    """Return the arguments of a call, as JSON text if a number in them is too large."""
    return arguments if _is_encodable(arguments) else msgspec.json.encode(arguments).decode()


def arguments_text(arguments: Any, field: str) -> str:
    """Return the arguments of an earlier call as text; a model may write no object, or nothing.

    Raises InvalidRequest for deep nesting.
    """
    if arguments is None:
        return "{}"
    if isinstance(arguments, str):
        return arguments
    check_depth(arguments, field)
    return msgspec.json.encode(arguments).decode()


def _is_encodable(value: Any) -> bool:
    try:
        msgspec.msgpack.encode(value)
    except OverflowError:
        return False
    except RecursionError:
        return True  # depth is checked elsewhere
    return True


def _with_arguments_text(call: EarlierCall, field: str) -> EarlierCall:
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
        arguments = encodable_arguments(function["arguments"])
        call = call | {"function": function | {"arguments": arguments}}
    check_encodable(field, call)
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
