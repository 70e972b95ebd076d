"""Write the JSON that leaves a process: answers, events, errors, reports and log lines.

orjson writes what the standard types hold, which is nearly all output. msgspec converts its own
Structs to such types, and writes a value as a whole where orjson refuses one that JSON allows: an
integer beyond 64 bits (a client's tool schema is repeated in an answer), a key that is no string,
a nest deeper than 254. A value that both refuse raises msgspec's error.

Both libraries write the same bytes, with one exception that no reader of JSON notices: from 1e16 on
orjson puts a plus sign into a float's exponent (`1e+16`). [both]
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

if TYPE_CHECKING:
    from collections.abc import Callable


def encode(value: Any) -> bytes:
    """Return a value as JSON. Raises TypeError, UnicodeEncodeError, RecursionError."""
    try:
        return orjson.dumps(value, _converted)
    except orjson.JSONEncodeError:
        return msgspec.json.encode(value, enc_hook=_raw)


def encode_with_str(value: Any) -> bytes:
    """Return a value as JSON, in which an object of an unknown type is its `str`."""
    try:
        return orjson.dumps(value, _converted_with_str)
    except orjson.JSONEncodeError:
        return msgspec.json.encode(value, enc_hook=str)


encode_text: Final[Callable[[str], bytes]] = orjson.dumps
"""Return a text as a JSON string. For text that came as UTF-8, of which orjson refuses none."""


def embedded(json: bytes | str) -> Any:
    """Return JSON text as a value that is written without being read or copied once more."""
    return orjson.Fragment(json)


def joined_list(*stretches: bytes) -> Any:
    """Return stretches of JSON lists, without their brackets, as one embedded list."""
    return embedded(b"[%b]" % b",".join(filter(None, stretches)))


def _converted(value: Any, enc_hook: Callable[[Any], Any] | None = None) -> Any:
    """Return what orjson does not know in types that orjson knows. Raises TypeError."""
    if isinstance(value, msgspec.Raw):
        return orjson.Fragment(bytes(value))
    return msgspec.to_builtins(value, str_keys=True, enc_hook=enc_hook)


_converted_with_str: Final = partial(_converted, enc_hook=str)


def _raw(value: Any) -> msgspec.Raw:
    """Return embedded JSON in msgspec's form. Raises TypeError for any other value."""
    return msgspec.Raw(orjson.dumps(value))
