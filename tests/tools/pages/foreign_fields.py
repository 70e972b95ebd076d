"""Write docs/reference/foreign-fields.md: fields of other servers, and what is done with them."""

from __future__ import annotations

import json
from typing import Final

from mlx_worker.api.dialects.foreign_fields import ALL_DIALECTS, HARMLESS, REFUSED

_BEGINNING: Final = """\
# Fields of other servers

Written by `python -m tests.tools.generated` from the table that refuses these fields.

The fields below belong to other servers or to other dialects, and would change an answer. Such a
field is a 400 `unsupported_field`: the message names the field and what to use instead. Values that
ask for nothing are ignored; `null` is always one of them. Where a dialect has a field of this name
itself, the [dialect's own table](dialects.md) counts. "Everywhere" is all four dialects. An empty
"use instead" means that the node has nothing like the field.

"""

_HARMLESS: Final = """

## Ignored

These fields change no answer by themselves and are ignored:

"""


def page() -> str:
    """Return the page."""
    harmless = "\n".join(f"- `{name}`" for name in HARMLESS)
    return f"{_BEGINNING}{_table()}{_HARMLESS}{harmless}\n"


def _table() -> str:
    lines = ["| field | where | refused but for | use instead |", "|---|---|---|---|"]
    for field in sorted(REFUSED, key=lambda foreign: (foreign.name, foreign.dialects)):
        where = "everywhere" if field.dialects == ALL_DIALECTS else ", ".join(field.dialects)
        neutral = ", ".join(f"`{json.dumps(value)}`" for value in field.neutral)
        lines.append(f"| `{field.name}` | {where} | {neutral} | {field.instead} |")
    return "\n".join(lines)
