"""What an answer has to be: a document, a text of a grammar, or calls; from any dialect's fields.

Only the request is read here. Whether a schema or a grammar can be kept is told by the model's
child, which has the tokens, before the answer begins. [front]
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.api.fields import check_portable, required
from mlx_worker.api.hosted_tools import unknown_type
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire import messages as m

if TYPE_CHECKING:
    from mlx_worker.api.fields import Samplers, StructuredOutputs

EXTENSION = "structured_outputs"


def constraint_of(
    asked: Samplers, forced: m.Call | None, shape: m.Constraint | None = None
) -> m.Constraint | None:
    """The one constraint of an answer; one that is `forced` calls has no content to be shaped.

    Raises InvalidRequest where the dialect's own field and the extension both ask for a shape.
    """
    extension = _extension(asked.structured_outputs) if asked.structured_outputs else None
    if extension is not None and shape is not None:
        raise InvalidRequest(
            f"{EXTENSION}: {shape.field} asks for a shape too, and an answer has one",
            param=EXTENSION,
        )
    return forced or shape or extension


def formatted(kind: str, schema: dict[str, Any] | None, field: str, at: str) -> m.JsonSchema | None:
    """A format as OpenAI and Anthropic write it: in `field`, with its schema in `at`."""
    match kind:
        case "text":
            return None
        case "json_object":
            return m.JsonSchema('{"type":"object"}', field)
        case "json_schema":
            return fitting(required(schema, at), at)
        case other:
            raise unknown_type(field, other, ("text", "json_object", "json_schema"))


def fitting(schema: dict[str, Any], field: str) -> m.JsonSchema:
    """JSON that fits a schema, whose keys keep their order. Raises InvalidRequest."""
    check_portable(field, schema)
    return m.JsonSchema(msgspec.json.encode(schema).decode(), field)


def must_call(tools: list[str], field: str, only: str | None = None) -> m.Call:
    """A call of one of these tools, or of the `only` one. Raises InvalidRequest."""
    if not tools:
        raise InvalidRequest(f"{field}: there are no tools to call", param=field)
    if only is not None and only not in tools:
        raise InvalidRequest(f"{field}: there is no tool {only!r}", param=field)
    return m.Call(list(dict.fromkeys(tools)) if only is None else [only], field)


def _extension(asked: StructuredOutputs) -> m.Constraint:
    given = [name for name in asked.__struct_fields__ if getattr(asked, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"{EXTENSION}: one of {', '.join(asked.__struct_fields__)} is to be given,"
            f" not {len(given)}",
            param=EXTENSION,
        )
    field = f"{EXTENSION}.{given[0]}"
    if asked.json is not None:
        return fitting(asked.json, field)
    if asked.regex is not None:
        return m.Regex(asked.regex, field)
    if asked.choice is not None:
        # One terminal, which is one automaton: as rules, thousands of choices are too many.
        choices = " | ".join(map(json.dumps, asked.choice))
        return m.Lark(f"start: CHOICE\nCHOICE: {choices}", field)
    assert asked.grammar is not None
    return m.Lark(asked.grammar, field)
