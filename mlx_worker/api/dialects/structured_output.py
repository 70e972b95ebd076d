"""Build the constraint of an answer: a JSON document, a text of a grammar, or tool calls.

Only the request is read here. Whether a schema or a grammar can be enforced is decided by the
model's child, which has the tokens, before the answer begins.

[front]
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.api.dialects.fields import check_encodable, require_field
from mlx_worker.api.dialects.hosted_tools import unknown_type_error
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.wire.request import (
    AnswerConstraint,
    JsonSchemaConstraint,
    LarkConstraint,
    RegexConstraint,
    ToolCallConstraint,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.api.dialects.fields import CommonFields, StructuredOutputs

EXTENSION = "structured_outputs"

OTHER_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "guided_json": "json",
        "guided_regex": "regex",
        "guided_choice": "choice",
        "guided_grammar": "grammar",
        "json_schema": "json",
        "regex": "regex",
        "grammar": "grammar",
        "ebnf": "grammar",
    }
)
"""Fields of vLLM's earlier versions, llama.cpp and SGLang, by their kinds in the extension."""

REFUSED_IN_EXTENSION: Final = (
    "structural_tag",
    "whitespace_pattern",
    "disable_any_whitespace",
    "disable_additional_properties",
)


def resolve_constraint(
    body: CommonFields,
    forced: ToolCallConstraint | None,
    dialect_constraint: AnswerConstraint | None = None,
) -> AnswerConstraint | None:
    """Return the one constraint of an answer; an answer of `forced` calls has no content.

    Raises InvalidRequest if several fields constrain the content: the dialect's own
    (`dialect_constraint`), the extension, and its other names.
    """
    constraints = [
        *([] if dialect_constraint is None else [dialect_constraint]),
        *_extension_constraints(body.structured_outputs),
        *_constraints_by_other_names(body),
    ]
    if len(constraints) > 1:
        first, second, *_ = constraints
        param = second.field.partition(".")[0]
        raise InvalidRequest(f"{param}: cannot be combined with {first.field}", param=param)
    return forced or next(iter(constraints), None)


def response_format_constraint(
    kind: str, schema: dict[str, Any] | None, field: str, schema_field: str
) -> JsonSchemaConstraint | None:
    """Return the constraint of a format in OpenAI's form. Raises InvalidRequest."""
    match kind:
        case "text":
            return None
        case "json_object" if schema is None:
            return any_object_constraint(field)
        case "json_object" | "json_schema":
            return json_schema_constraint(require_field(schema, schema_field), schema_field)
        case other:
            raise unknown_type_error(field, other, ("text", "json_object", "json_schema"))


def json_schema_constraint(schema: dict[str, Any], field: str) -> JsonSchemaConstraint:
    """Return the constraint of JSON that fits a schema. Raises InvalidRequest."""
    check_encodable(field, schema)
    return JsonSchemaConstraint(msgspec.json.encode(schema).decode(), field)


def any_object_constraint(field: str) -> JsonSchemaConstraint:
    """Return the constraint of any JSON object."""
    return JsonSchemaConstraint('{"type":"object"}', field)


def tool_call_constraint(
    tools: list[str], field: str, only: str | None = None
) -> ToolCallConstraint:
    """Return the constraint of a call of these tools, or of `only`. Raises InvalidRequest."""
    if not tools:
        raise InvalidRequest(f"{field}: there is no tool to call", param=field)
    if only is not None and only not in tools:
        raise InvalidRequest(f"{field}: there is no tool {only!r}", param=field)
    return ToolCallConstraint(list(dict.fromkeys(tools)) if only is None else [only], field)


def _extension_constraints(extension: StructuredOutputs | None) -> list[AnswerConstraint]:
    if extension is None:
        return []
    for name in REFUSED_IN_EXTENSION:
        if getattr(extension, name):
            field = f"{EXTENSION}.{name}"
            raise UnsupportedField(f"{field}: this node cannot honour this field", param=field)
    given = [name for name in _KINDS if getattr(extension, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"{EXTENSION}: exactly one of {', '.join(_KINDS)} is required, not {len(given)}",
            param=EXTENSION,
        )
    (kind,) = given
    constraint = _build_constraint(kind, getattr(extension, kind), f"{EXTENSION}.{kind}")
    return [] if constraint is None else [constraint]


def _constraints_by_other_names(body: CommonFields) -> list[AnswerConstraint]:
    given = ((field, kind, getattr(body, field)) for field, kind in OTHER_NAMES.items())
    constraints = [
        _build_constraint(kind, value, field) for field, kind, value in given if value is not None
    ]
    return [constraint for constraint in constraints if constraint is not None]


_KINDS: Final = ("json", "regex", "choice", "grammar", "json_object")


def _build_constraint(kind: str, value: Any, field: str) -> AnswerConstraint | None:
    """Return the constraint that a field of this kind asks for."""
    match kind:
        case "json":
            return json_schema_constraint(_decode_schema(value, field), field)
        case "regex":
            return RegexConstraint(value, field)
        case "choice":
            # One terminal is one automaton: thousands of choices as rules would be too many.
            choices = " | ".join(map(json.dumps, value))
            return LarkConstraint(f"start: CHOICE\nCHOICE: {choices}", field)
        case "grammar":
            return LarkConstraint(value, field)
        case _:
            return any_object_constraint(field) if value else None


def _decode_schema(value: dict[str, Any] | str, field: str) -> dict[str, Any]:
    """Return a schema that may be written as text. Raises InvalidRequest."""
    if isinstance(value, dict):
        return value
    try:
        schema = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"{field}: the text is not JSON: {error}", param=field) from error
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{field}: must be the text of a JSON object", param=field)
    return schema
