"""JSON bodies and fields as typed values, with errors that name field, value and limit.

JSON has one kind of number, and clients in languages with one kind write all of theirs with a
fraction: `4.0` for `4`. msgspec takes a float for no integer, so a body that does not fit its type
is converted once more, with its whole numbers as integers.

[front]
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from mlx_worker.errors import InvalidRequest, MissingField
from mlx_worker.validation import IS_REQUIRED, explain

T = TypeVar("T")

LEVELS: Final = 2
"""Lists in lists: several prompts, each of token ids."""


def decode_body(data: bytes, body_type: type[T]) -> T:
    """Return a JSON body as a typed value. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(data, type=body_type)
    except msgspec.ValidationError as error:
        return _decode_with_whole_numbers(_decode_untyped(data), body_type, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error


def convert_field(value: Any, field_type: type[T], field: str) -> T:
    """Return the value of a field as a typed value. Raises InvalidRequest."""
    try:
        return msgspec.convert(value, field_type)
    except msgspec.ValidationError as error:
        path, problem = explain(error, value, field_type)
        place = f"{field}{path if path.startswith('[') else f'.{path}' if path else ''}"
        raise InvalidRequest(f"{place}: {problem}", param=place) from error


def _decode_with_whole_numbers(
    untyped: Any, body_type: type[T], error: msgspec.ValidationError
) -> T:
    """Return a body whose only fault is how its whole numbers are written. Raises InvalidRequest.

    `untyped` None: there is no body, or its nesting is too deep for a body without a type.
    """
    if untyped is not None:
        try:
            return msgspec.convert(with_whole_numbers(untyped), body_type, str_keys=True)
        except msgspec.ValidationError as second_error:
            error = second_error
    path, problem = explain(error, untyped, body_type)
    kind = MissingField if problem == IS_REQUIRED and "." not in path else InvalidRequest
    raise kind(f"{path or 'body'}: {problem}", param=path or None) from error


def _decode_untyped(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def with_whole_numbers(body: Any) -> Any:
    """Return a body with integers for the whole numbers of its own fields.

    Objects inside stay as they are: free-form values (tools, schemas, template arguments) are
    objects, and are the caller's.
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
