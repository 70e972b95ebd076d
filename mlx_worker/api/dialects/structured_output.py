"""What an answer has to be: a document, a text of a grammar, or calls; from any dialect's fields.

Only the request is read here. Whether a schema or a grammar can be kept is told by the model's
child, which has the tokens, before the answer begins. [front]
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.api.dialects.fields import check_portable, required
from mlx_worker.api.dialects.hosted_tools import unknown_type
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

    from mlx_worker.api.dialects.fields import Samplers, StructuredOutputs

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
"""Fields of vLLM's earlier versions, llama.cpp and SGLang, and what they are in the extension."""

REFUSED_IN_EXTENSION: Final = (
    "structural_tag",
    "whitespace_pattern",
    "disable_any_whitespace",
    "disable_additional_properties",
)


def constraint_of(
    asked: Samplers, forced: ToolCallConstraint | None, shape: AnswerConstraint | None = None
) -> AnswerConstraint | None:
    """Return the one constraint of an answer; `forced` calls have no content to be shaped.

    Raises InvalidRequest where several fields ask for a shape: the dialect's own (`shape`), the
    extension, and its other names.
    """
    shapes = [shape, *_extension(asked.structured_outputs), *_other_names(asked)]
    given = [shape for shape in shapes if shape is not None]
    if len(given) > 1:
        first, second, *_ = given
        param = second.field.partition(".")[0]
        raise InvalidRequest(
            f"{param}: {first.field} asks for a shape too, and an answer has one", param=param
        )
    return forced or next(iter(given), None)


def formatted(
    kind: str, schema: dict[str, Any] | None, field: str, at: str
) -> JsonSchemaConstraint | None:
    """A format as OpenAI and Anthropic write it: in `field`, with its schema in `at`."""
    match kind:
        case "text":
            return None
        case "json_object" if schema is None:
            return any_object(field)
        case "json_object" | "json_schema":
            return fitting(required(schema, at), at)
        case other:
            raise unknown_type(field, other, ("text", "json_object", "json_schema"))


def fitting(schema: dict[str, Any], field: str) -> JsonSchemaConstraint:
    """JSON that fits a schema, whose keys keep their order. Raises InvalidRequest."""
    check_portable(field, schema)
    return JsonSchemaConstraint(msgspec.json.encode(schema).decode(), field)


def any_object(field: str) -> JsonSchemaConstraint:
    """Return the shape of any JSON object."""
    return JsonSchemaConstraint('{"type":"object"}', field)


def must_call(tools: list[str], field: str, only: str | None = None) -> ToolCallConstraint:
    """A call of one of these tools, or of the `only` one. Raises InvalidRequest."""
    if not tools:
        raise InvalidRequest(f"{field}: there are no tools to call", param=field)
    if only is not None and only not in tools:
        raise InvalidRequest(f"{field}: there is no tool {only!r}", param=field)
    return ToolCallConstraint(list(dict.fromkeys(tools)) if only is None else [only], field)


def _extension(asked: StructuredOutputs | None) -> list[AnswerConstraint]:
    if asked is None:
        return []
    for name in REFUSED_IN_EXTENSION:
        if getattr(asked, name):
            field = f"{EXTENSION}.{name}"
            raise UnsupportedField(f"{field}: this node cannot honour this field", param=field)
    given = [name for name in _KINDS if getattr(asked, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"{EXTENSION}: one of {', '.join(_KINDS)} is to be given, not {len(given)}",
            param=EXTENSION,
        )
    (kind,) = given
    shape = _shape(kind, getattr(asked, kind), f"{EXTENSION}.{kind}")
    return [] if shape is None else [shape]


def _other_names(asked: Samplers) -> list[AnswerConstraint]:
    given = ((field, kind, getattr(asked, field)) for field, kind in OTHER_NAMES.items())
    shapes = [_shape(kind, value, field) for field, kind, value in given if value is not None]
    return [shape for shape in shapes if shape is not None]


_KINDS: Final = ("json", "regex", "choice", "grammar", "json_object")


def _shape(kind: str, value: Any, field: str) -> AnswerConstraint | None:
    """Return the shape that a field of this kind asks for."""
    match kind:
        case "json":
            return fitting(_schema(value, field), field)
        case "regex":
            return RegexConstraint(value, field)
        case "choice":
            # One terminal, which is one automaton: as rules, thousands of choices are too many.
            choices = " | ".join(map(json.dumps, value))
            return LarkConstraint(f"start: CHOICE\nCHOICE: {choices}", field)
        case "grammar":
            return LarkConstraint(value, field)
        case _:
            return any_object(field) if value else None


def _schema(value: dict[str, Any] | str, field: str) -> dict[str, Any]:
    """Return a schema that may be given as its text. Raises InvalidRequest."""
    if isinstance(value, dict):
        return value
    try:
        schema = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"{field}: the text is not JSON: {error}", param=field) from error
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{field}: the text is JSON, but no object", param=field)
    return schema
