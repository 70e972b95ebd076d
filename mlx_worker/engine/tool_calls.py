"""The text of a tool call to the call itself, by mlx_lm's parsers.

They read a whole call at a time and may raise or return nearly anything, because a model may write
nearly anything: what comes out here is a call that can be carried out, or one error that says what
is wrong. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_worker.errors import cause_of

if TYPE_CHECKING:
    from collections.abc import Callable

    CallParser = Callable[[str, list[dict[str, Any]]], Any]
    """One of mlx_lm's: (the text between the markers, the tools offered) → a call or several."""


class MalformedCall(ValueError):
    """A text between call markers that is no call; its message says why."""


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """`arguments` is JSON. `id` is the model's own, None where its format has none."""

    id: str | None
    name: str
    arguments: str


def parse_calls(parse: CallParser, text: str, tools: list[dict[str, Any]]) -> list[ParsedCall]:
    """All calls of one text, at least one. Raises MalformedCall."""
    try:
        parsed = parse(text, tools)
        calls = [_call(it) for it in (parsed if isinstance(parsed, list) else [parsed])]
    except MalformedCall:
        raise
    except Exception as error:
        # A parser is a program on the model's text: it fails in as many ways as that can be wrong.
        raise MalformedCall(f"not a call: {cause_of(error)}") from error
    if not calls:
        raise MalformedCall("not a call: there is none in it")
    return calls


def _call(parsed: Any) -> ParsedCall:
    name = parsed.get("name") if isinstance(parsed, dict) else None
    if not isinstance(name, str) or not name:
        raise MalformedCall("not a call: it names no function")
    own = parsed.get("id")
    arguments = _arguments(parsed.get("arguments") or {})
    for said in (name, arguments):
        said.encode()  # half a surrogate pair could not be sent
    return ParsedCall(own if isinstance(own, str) and own else None, name, arguments)


def _arguments(arguments: Any) -> str:
    """As JSON. A string is taken for JSON already; it has to be an object either way."""
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(value, dict):
        raise MalformedCall("not a call: its arguments are no object")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
