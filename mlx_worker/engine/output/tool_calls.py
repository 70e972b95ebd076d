"""The text of a tool call to the call itself, by mlx_lm's parsers.

They read a whole call at a time and may raise or return nearly anything, because a model may write
nearly anything: what comes out here is a call that can be carried out, or one error that says what
is wrong. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.engine.output.tool_call_values import parse_values
from mlx_worker.errors import cause_of
from mlx_worker.wire.framing import sayable

if TYPE_CHECKING:
    from mlx_worker.engine.output.tool_call_values import CallParser

_ARGUMENTS: Final = ("arguments", "parameters", "args", "input")
"""Names that models give the arguments of a call, whatever their template shows."""

_BESIDE: Final = frozenset({"name", "id", "type", "function", *_ARGUMENTS})
"""Keys that a call may have. Any other key without arguments is no call: it would lose words."""


class MalformedCall(ValueError):
    """A text between call markers that is no call; its message says why."""


@dataclass(frozen=True, slots=True)
class ParsedToolCall:
    """`arguments` is JSON. `id` is the model's own, None where its format has none."""

    id: str | None
    name: str
    arguments: str


def parse_calls(parse: CallParser, text: str, tools: list[dict[str, Any]]) -> list[ParsedToolCall]:
    """All calls of one text, at least one. Raises MalformedCall."""
    try:
        parsed = parse_values(parse, text, tools)
        calls = [_call(it) for it in (parsed if isinstance(parsed, list) else [parsed])]
    except MalformedCall:
        raise
    except Exception as error:
        # A parser is a program on the model's text: it fails in as many ways as that can be wrong.
        raise MalformedCall(sayable(f"not a call: {cause_of(error)}")) from error
    if not calls:
        raise MalformedCall("not a call: there is none in it")
    return calls


def _call(parsed: Any) -> ParsedToolCall:
    own = parsed.get("id") if isinstance(parsed, dict) else None
    if isinstance(parsed, dict) and isinstance(parsed.get("function"), dict):
        parsed = parsed["function"]  # as OpenAI's API writes a call
    name = parsed.get("name") if isinstance(parsed, dict) else None
    if not isinstance(name, str) or not name:
        raise MalformedCall("not a call: it names no function")
    arguments = _arguments(_said_arguments(parsed))
    for said in (name, arguments):
        said.encode()  # half a surrogate pair could not be sent
    has_id = isinstance(own, str) and own and own == sayable(own)
    return ParsedToolCall(own if has_id else None, name, arguments)


def _said_arguments(parsed: dict[str, Any]) -> Any:
    """Return the arguments under whichever name the model gave them; {} where it gave none."""
    for key in _ARGUMENTS:
        if parsed.get(key) is not None:
            return parsed[key] or {}
    if others := sorted(map(str, parsed.keys() - _BESIDE)):
        raise MalformedCall(f"not a call: it has no arguments, but {', '.join(others)[:100]!r}")
    return {}


def _arguments(arguments: Any) -> str:
    """As JSON. A string is taken for JSON already; it has to be an object either way."""
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(value, dict):
        raise MalformedCall("not a call: its arguments are no object")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
