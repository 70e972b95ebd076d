"""The item of a call in a response: a call of a function or of a custom tool.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlx_worker.api.dialects.responses.tools import CUSTOM_INPUT

if TYPE_CHECKING:
    from mlx_worker.api.dialects.responses.tool_names import ToolName
    from mlx_worker.wire.output import ToolCall


class CallItemFormat(NamedTuple):
    """The fields of a call's item: `text` is in `field`; events are named by `event`.

    `id_prefix` begins the item's own id.
    """

    id_prefix: str
    type: str
    event: str
    field: str
    text: str
    names: dict[str, str]


def call_item_format(call: ToolCall, name: ToolName | None) -> CallItemFormat:
    """Return the fields of a call; `name` is the client's name of a tool that was renamed."""
    names = {"name": call.name}
    if name is not None:
        space = {} if name.namespace is None else {"namespace": name.namespace}
        names = {**space, "name": name.name}
    if name is not None and name.is_custom:
        text = _custom_input(call.arguments)
        return CallItemFormat(
            "ctc", "custom_tool_call", "custom_tool_call_input", "input", text, names
        )
    return CallItemFormat(
        "fc", "function_call", "function_call_arguments", "arguments", call.arguments, names
    )


def _custom_input(arguments: str) -> str:
    """Return the text in a call's arguments; the arguments themselves if there is no text.

    A model may give the only argument another name than the declared one.
    """
    decoded = msgspec.json.decode(arguments)
    if isinstance(decoded, dict):
        only_value = next(iter(decoded.values())) if len(decoded) == 1 else None
        text = decoded.get(CUSTOM_INPUT, only_value)
        if isinstance(text, str):
            return text
    return arguments
