"""The text of a tool call to the call itself, by mlx_lm's parsers.

The parsers read a whole call at a time, and may raise or return nearly anything, because a model
may write nearly anything. The result here is a call that can be carried out, or one error with the
problem. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.engine.output.tool_call_values import parse_values
from mlx_worker.errors import cause_of
from mlx_worker.wire.framing import encodable

if TYPE_CHECKING:
    from mlx_worker.engine.output.tool_call_values import CallParser

_ARGUMENTS: Final = ("arguments", "parameters", "args", "input")
"""Names that models give the arguments of a call, whatever their template shows."""

_BESIDE: Final = frozenset({"name", "id", "type", "function", *_ARGUMENTS})
"""Keys that a call may have. With any other key, and no arguments, a text is no call."""


class MalformedCall(ValueError):
    """Report that a text between call markers is no call; the message says why."""


@dataclass(frozen=True, slots=True)
class ParsedToolCall:
    """Hold a parsed call. `arguments` is JSON; `id` is the model's own, None if it wrote none."""

    id: str | None
    name: str
    arguments: str


def parse_calls(parse: CallParser, text: str, tools: list[dict[str, Any]]) -> list[ParsedToolCall]:
    """Return all calls of one text, at least one. Raises MalformedCall."""
    try:
        parsed = parse_values(parse, text, tools)
        calls = [_call(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
    except MalformedCall:
        raise
    except Exception as error:
        # A parser is a program on the model's text: it fails in as many ways as that can be wrong.
        raise MalformedCall(encodable(f"not a tool call: {cause_of(error)}")) from error
    if not calls:
        raise MalformedCall("not a tool call: the text contains no call")
    return calls


def _call(parsed: Any) -> ParsedToolCall:
    own = parsed.get("id") if isinstance(parsed, dict) else None
    if isinstance(parsed, dict) and isinstance(parsed.get("function"), dict):
        parsed = parsed["function"]  # as OpenAI's API writes a call
    name = parsed.get("name") if isinstance(parsed, dict) else None
    if not isinstance(name, str) or not name:
        raise MalformedCall("not a tool call: no function name")
    arguments = _arguments(_written_arguments(parsed))
    for text in (name, arguments):
        text.encode()  # raises for half of a surrogate pair, which could not be sent
    has_id = isinstance(own, str) and own and own == encodable(own)
    return ParsedToolCall(own if has_id else None, name, arguments)


def _written_arguments(parsed: dict[str, Any]) -> Any:
    """Return the arguments, under any of the names that models use; {} where there are none."""
    for key in _ARGUMENTS:
        if parsed.get(key) is not None:
            return parsed[key] or {}
    if others := sorted(map(str, parsed.keys() - _BESIDE)):
        raise MalformedCall(f"not a tool call: no arguments, but {', '.join(others)[:100]!r}")
    return {}


def _arguments(arguments: Any) -> str:
    """Return arguments as JSON; a string is taken for JSON. Both have to be an object."""
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(value, dict):
        raise MalformedCall("not a tool call: the arguments are not a JSON object")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
