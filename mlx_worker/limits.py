"""Limits of what a request may demand of its model's process before the answer begins.

Each check raises an error that names the field, the value and the limit, and stops counting at the
limit: to refuse costs no more than to accept. The front checks a body while it is parsed, so that
what is too much is sent to no child; the child checks every request again. [both]
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import ConstraintTooCostly, InvalidRequest
from mlx_worker.validation import too_much
from mlx_worker.wire.request import (
    ChatRequest,
    JsonSchemaConstraint,
    LarkConstraint,
    RegexConstraint,
    ToolCallConstraint,
)
from mlx_worker.wire.tool_call_schemas import arguments_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONSTRAINT_BYTES: Final = 256 << 10
"""UTF-8 bytes of a schema, a grammar or a regex, or of all tools' parameters together."""

PATTERNS: Final = 200
"""`pattern` and `patternProperties` entries in the schemas of one body."""

CHOICES: Final = 20_000
"""Entries of `enum`, and `const` schemas, in the schemas of one body."""

ALTERNATIVES: Final = 500
"""Schemas in one `anyOf` or `oneOf`; `const` schemas are not counted."""

TEMPLATE_VALUES: Final = 20_000
"""Values, at any depth, in `chat_template_kwargs`: a template may walk over all of them."""

TOOL_VALUES: Final = 200_000
"""Values, at any depth, in `tools`."""

RENAMED_TOOLS: Final = 4096
"""Custom tools, and tools of namespaces: the front keeps their names until the answer ends."""

CALL_VALUES: Final = 200_000
"""Values, at any depth, in the calls of earlier turns."""

ANSWER_BYTES: Final = 32 << 20
"""Bytes of token ids or of their text, as JSON: the front sends such an answer in one step."""

WARM_PROMPTS: Final = 8
"""System prompts that a model's process keeps because a request warmed them."""

DEEPEST: Final = 64
"""Levels of lists and objects inside a field of free form."""


def check_amount(request: ChatRequest) -> None:
    """Raise InvalidRequest for more values than a template may be given."""
    check_values(request.template_kwargs, TEMPLATE_VALUES, "chat_template_kwargs")
    check_values(request.tools, TOOL_VALUES, "tools")


def check_conversation(request: ChatRequest, field: str) -> None:
    """Raise InvalidRequest for a conversation without a turn; `field` is the caller's name of it.

    A conversation is empty also where all of its parts were left out.
    """
    if request.prompt is None and not request.messages:
        raise InvalidRequest(
            f"{field}: the conversation is empty; at least one message with text is required",
            param=field,
        )


def check_constraint(request: ChatRequest) -> None:
    """Raise ConstraintTooCostly for a constraint of more than one request may ask for."""
    match shape := request.constraint:
        case JsonSchemaConstraint():
            check_constraint_text(shape.schema, shape.field)
            check_schemas([json.loads(shape.schema)], shape.field)
        case RegexConstraint():
            check_constraint_text(shape.pattern, shape.field)
        case LarkConstraint():
            check_constraint_text(shape.grammar, shape.field)
        case ToolCallConstraint():
            schemas = arguments_of(request.tools, shape.names)
            check_constraint_text(json.dumps(schemas), "tools")
            check_schemas(schemas, "tools")


def check_ends(request: ChatRequest) -> None:
    """Raise InvalidRequest for a minimum length that the answer cannot have.

    An answer with a constraint ends where the constraint is complete, whatever its length.
    """
    ends, shape, most = request.ends, request.constraint, request.max_tokens
    for field, is_asked in (("ignore_eos", ends.ignore_eos), ("min_tokens", ends.min_tokens > 0)):
        if is_asked and shape is not None:
            raise InvalidRequest(
                f"{field}: {shape.field} constrains the answer and decides where the answer ends",
                param=field,
            )
    if most is not None and ends.min_tokens > most:
        raise InvalidRequest(
            f"min_tokens: {ends.min_tokens} is more than max_tokens, which is {most}",
            param="min_tokens",
        )


def check_values(value: Any, most: int, field: str) -> None:
    """Raise InvalidRequest if there are more than `most` values in a JSON value, at any depth."""
    for count, _ in enumerate(json_values(value), 1):
        if count > most:
            raise InvalidRequest(f"{field}: more than {most} values; at most {most}", param=field)


def check_depth(value: Any, field: str) -> None:
    """Raise InvalidRequest if lists and objects are nested deeper than `DEEPEST` levels."""
    if (problem := too_much(value, DEEPEST, sys.maxsize)) is not None:
        raise InvalidRequest(f"{field}: {problem}", param=field)


def check_constraint_text(text: str, field: str) -> None:
    """Raise ConstraintTooCostly for a schema, grammar or regex of too many bytes."""
    try:
        size = len(text) if len(text) > CONSTRAINT_BYTES else len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field}: character {error.start} is half of a surrogate pair", param=field
        ) from error
    if size > CONSTRAINT_BYTES:
        raise ConstraintTooCostly(f"{field}: {size} bytes; at most {CONSTRAINT_BYTES}", param=field)


def check_answer(json_text: bytes, field: str) -> None:
    """Raise InvalidRequest for an answer, in JSON, of too many bytes."""
    if len(json_text) > ANSWER_BYTES:
        raise InvalidRequest(
            f"{field}: the answer has {len(json_text)} bytes; at most {ANSWER_BYTES}", param=field
        )


def check_schemas(schemas: Iterable[Any], field: str) -> None:
    """Raise ConstraintTooCostly for more patterns, enum entries or alternatives than may be."""
    patterns = choices = 0
    for schema in schemas:
        for part in json_values(schema):
            if not isinstance(part, dict):
                continue
            named = part.get("patternProperties")
            patterns += isinstance(part.get("pattern"), str)
            patterns += len(named) if isinstance(named, dict) else 0
            listed = part.get("enum")
            choices += len(listed) if isinstance(listed, list) else "const" in part
            _check_alternatives(part, field)
    for count, most, what in ((patterns, PATTERNS, "patterns"), (choices, CHOICES, "enum entries")):
        if count > most:
            raise ConstraintTooCostly(f"{field}: {count} {what}; at most {most}", param=field)


def _check_alternatives(part: dict[str, Any], field: str) -> None:
    for name in ("anyOf", "oneOf"):
        listed = part.get(name)
        if not isinstance(listed, list) or len(listed) <= ALTERNATIVES:
            continue
        schemas = sum("const" not in item for item in listed if isinstance(item, dict))
        if schemas > ALTERNATIVES:
            raise ConstraintTooCostly(
                f"{field}: {name} has {schemas} schemas; at most {ALTERNATIVES}", param=field
            )


def json_values(value: Any) -> Iterator[Any]:
    """Yield a JSON value and all values in it, without recursion: the nesting is the client's."""
    waiting: list[Iterator[Any]] = [iter((value,))]
    while waiting:
        for inner in waiting[-1]:
            yield inner
            if isinstance(inner, dict):
                waiting.append(iter(inner.values()))
                break
            if isinstance(inner, list):
                waiting.append(iter(inner))
                break
        else:
            waiting.pop()
