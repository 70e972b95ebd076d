"""Arguments of calls that a model writes as text, by the types that their schemas declare.

Formats of tags (Qwen3-Coder, MiniMax, GLM and their like) write every value as bare text. mlx_lm's
parsers turn some of it into JSON on the way of a float or of Python's own literals, which changes
large integers, loses words where a number was declared, and cannot be sent where a value has no
JSON (mlx-lm up to 0.32.2). So these parsers are handed schemas that declare such values as text,
and the text becomes a value here. A value that does not fit its type stays the text that the model
wrote: the tool that is called can say what is wrong with that. [child]
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    CallParser = Callable[[str, list[dict[str, Any]]], Any]
    """One of mlx_lm's: (the text between the markers, the tools offered) → a call or several."""

_BY_SCHEMA: Final = frozenset(
    f"mlx_lm.tool_parsers.{name}" for name in ("glm47", "longcat", "minimax_m2", "minicpm5")
) | {"mlx_lm.tool_parsers.qwen3_coder"}
"""Parsers that read bare text by the schemas of the tools; laguna's is glm47's."""

_TEXT: Final = {"type": "string"}
_SCALARS: Final = frozenset({"integer", "number", "boolean", "null"})
_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,4000}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_LARGEST_EXPONENT: Final = 400
"""Beyond it a number is no double; spelling it out as an integer would take memory."""

Properties = dict[str, Any]


def parse_values(parse: CallParser, text: str, tools: list[dict[str, Any]]) -> Any:
    """Return what a parser of mlx_lm makes of a call's text, with values as the model wrote them.

    Raises any error of the parser.
    """
    if getattr(parse, "__module__", "") not in _BY_SCHEMA:
        return parse(text, tools)
    properties = {name: of for tool in tools for name, of in _declared(tool)}
    read = parse(text, [_as_text(tool, only_scalars=True) for tool in tools])
    spelled = parse(text, [_as_text(tool, only_scalars=False) for tool in tools])
    calls = zip(_listed(read), _listed(spelled), strict=True)
    return [_with_values(call, texts, properties) for call, texts in calls]


def _with_values(call: Any, texts: Any, properties: Mapping[str, Properties]) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
        return call
    schemas = properties.get(str(call.get("name")), {})
    spelled = texts["arguments"]
    arguments = {
        name: _value(value, spelled.get(name), schemas.get(name))
        for name, value in call["arguments"].items()
    }
    return call | {"arguments": arguments}


def _value(value: Any, text: Any, schema: Any) -> Any:
    """Return one argument: `value` as the parser read it, `text` as the model wrote it."""
    types = _types(schema)
    if types and types <= _SCALARS and isinstance(value, str):
        return _scalar(value, types)
    if not types and isinstance(value, str) and isinstance(schema, dict):
        value = _container_or(value)
    return value if _is_json(value) else text


def _scalar(text: str, types: Iterable[str]) -> Any:
    written = text.strip()
    if written.lower() == "null" or ("null" in types and written.lower() in ("none", "nil")):
        return None
    if "integer" in types or "number" in types:
        number = _number(written)
        if number is not None:
            return number
    if "boolean" in types and written.lower() in _WORDS:
        return _WORDS[written.lower()]
    return text


def _number(written: str) -> int | float | None:
    """Return a number with all its digits; None where the text is none, or none that JSON has."""
    if _INTEGER.fullmatch(written):
        return int(written)
    if not _NUMBER.fullmatch(written) or math.isinf(nearest := float(written)):
        return None
    exact = Decimal(written)
    whole = exact.adjusted() < _LARGEST_EXPONENT and exact == exact.to_integral_value()
    return int(exact) if whole else nearest


def _container_or(text: str) -> Any:
    """Return the list or object that a text of no declared type spells out, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict | list) else text


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


# --- schemas ------------------------------------------------------------------------------


def _types(schema: Any) -> frozenset[str]:
    """Return the JSON types that a schema declares by any of its words; none where it has none."""
    if not isinstance(schema, dict):
        return frozenset()
    declared = schema.get("type")
    types = {_json_type(name) for name in _listed(declared) if isinstance(name, str)}
    for word in ("anyOf", "oneOf", "allOf"):
        for choice in _listed(schema.get(word)):
            types |= _types(choice)
    return frozenset(types)


def _json_type(name: str) -> str:
    """Return JSON schema's word for a type, where tools write another (as mlx_lm reads them)."""
    low = name.strip().lower()
    if low.startswith(("int", "uint", "long", "short", "unsigned")):
        return "integer"
    if low.startswith(("num", "float")):
        return "number"
    return "boolean" if low.startswith("bool") else low


def _declared(tool: Any) -> list[tuple[str, Properties]]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str):
        return []
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return [(name, properties if isinstance(properties, dict) else {})]


def _as_text(tool: dict[str, Any], *, only_scalars: bool) -> dict[str, Any]:
    """Return a tool whose scalar properties, or all, are declared as text."""
    declared = _declared(tool)
    if not declared:
        return tool
    _, properties = declared[0]
    changed = {
        name: _TEXT if not only_scalars or _is_scalar(schema) else schema
        for name, schema in properties.items()
    }
    function = tool["function"]
    parameters = function.get("parameters")
    if not isinstance(parameters, dict):
        return tool
    return tool | {"function": function | {"parameters": parameters | {"properties": changed}}}


def _is_scalar(schema: Any) -> bool:
    types = _types(schema)
    return bool(types) and types <= _SCALARS


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
