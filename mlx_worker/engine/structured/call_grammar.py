"""Tool calls in a model's own format, as rules of a grammar.

Where the format is JSON between markers the arguments fit the schema of their tool. mlx_lm's other
formats write arguments in languages of their own, for which a schema gives no grammar: there a call
can be allowed, but not forced. [child]
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlx_worker.errors import UnsupportedField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.structured.lark import LarkWriter

JSON_FORMAT = "json_tools"
"""The module of mlx_lm's parser for {"name": …, "arguments": …} between two markers."""

SPACE = "SPACE: /( |\\n[ \\t]{0,16})/"


def forced_calls(
    tokenizer: Any, lark: LarkWriter, tools: Sequence[str], *, one: bool
) -> tuple[str, list[str]]:
    """Return calls of these tools as an expression and its rules; `@args_i`: arguments of tool i.

    `one`: exactly one call. Raises UnsupportedField for a format that is not JSON.
    """
    if tokenizer.tool_parser.__module__.rpartition(".")[2] != JSON_FORMAT:
        raise UnsupportedField(
            "tool_choice: calls cannot be forced in this model's tool call format",
            param="tool_choice",
        )
    start, end = (
        lark.word(marker) for marker in (tokenizer.tool_call_start, tokenizer.tool_call_end)
    )
    functions = " | ".join(
        _spaced(_text(name), '","', _text("arguments"), '":"', f"@args_{place}")
        for place, name in enumerate(tools)
    )
    body = _spaced('"{"', _text("name"), '":"', f"({functions})", '"}"')
    call = f"call: {start} SPACE? {body} SPACE? {end}"
    return "call" if one else "call (SPACE? call)*", [call, SPACE]


def free_calls(tokenizer: Any, lark: LarkWriter, *, one: bool) -> tuple[str, list[str]]:
    """Return calls as an expression and its rules, with any text between the markers."""
    start = lark.word(tokenizer.tool_call_start)
    if not tokenizer.tool_call_end:
        return f"{start} CALLED", ["CALLED: /(?s:.*)/"]
    inside, rule = lark.up_to(tokenizer.tool_call_end, "called")
    return "call" if one else "call (SPACE? call)*", [f"call: {start} {inside}", rule, SPACE]


def _text(value: str) -> str:
    """Return a JSON string as a word of the grammar."""
    return json.dumps(json.dumps(value, ensure_ascii=False))


def _spaced(*parts: str) -> str:
    return " SPACE? ".join(parts)
