"""How a call is told in a response: as a call of a function or of a custom tool. [front]"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlx_worker.api.dialects.responses.tools import CUSTOM_INPUT

if TYPE_CHECKING:
    from mlx_worker.api.dialects.responses.tools import ToolName
    from mlx_worker.wire.output import ToolCall


class CallForm(NamedTuple):
    """A call as its item tells it: `text` is in `field`; events are named `event`.

    `id` begins the item's own id.
    """

    id: str
    type: str
    event: str
    field: str
    text: str
    names: dict[str, str]


def form_of(call: ToolCall, name: ToolName | None) -> CallForm:
    """Return the form of a call; `name` is the client's own where it is not the model's."""
    names = {"name": call.name}
    if name is not None:
        space = {} if name.namespace is None else {"namespace": name.namespace}
        names = {**space, "name": name.name}
    if name is not None and name.is_custom:
        text = _custom_input(call.arguments)
        return CallForm("ctc", "custom_tool_call", "custom_tool_call_input", "input", text, names)
    return CallForm(
        "fc", "function_call", "function_call_arguments", "arguments", call.arguments, names
    )


def _custom_input(arguments: str) -> str:
    """Return the text in a call's arguments; the arguments themselves where there is none.

    A model may give the one text another name than the model was told.
    """
    said = msgspec.json.decode(arguments)
    if isinstance(said, dict):
        text = said.get(CUSTOM_INPUT, next(iter(said.values())) if len(said) == 1 else None)
        if isinstance(text, str):
            return text
    return arguments
