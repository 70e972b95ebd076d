"""Tools that are offered to a model whose chat template has no tool calls.

By the model's configuration such tools are refused, left out with a warning, or described in the
system prompt; then the model is asked to write its calls as JSON between two markers, and the
answer is read by mlx_lm's parser of that format. Whether the template has tool calls is asked
once, when the model is loaded. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from mlx_lm.tool_parsers import json_tools

from mlx_worker.engine.prompt import prompt_of
from mlx_worker.engine.templates.chat_text import chat_text, system_text
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.wire.request import ChatRequest, ToolCallConstraint

if TYPE_CHECKING:
    from mlx_worker.engine.prompt import Prompt, Tools
    from mlx_worker.engine.templates.chat_text import Messages
    from mlx_worker.engine.text_bound import TextBound

LEFT_OUT: Final = "tools: this model's chat template has no tool calls; the tools were left out"

INSTRUCTIONS: Final = """\
You have tools. Each line between <tools> and </tools> describes one of them in JSON:
<tools>
{tools}
</tools>
To use a tool, write a call of exactly this form, and then end your answer:
<tool_call>
{{"name": "the tool's name", "arguments": {{"a parameter": "its value"}}}}
</tool_call>
Write one such block for each call, and call no tool that is not listed. What a call returned comes
back between <tool_response> and </tool_response>. Where no tool helps, answer without a call."""
"""What a model is told of tools that its template cannot show."""

_PROBE: Final[Tools] = [
    {
        "type": "function",
        "function": {
            "name": "probe",
            "description": "",
            "parameters": {"type": "object", "properties": {}},
        },
    }
]
_USER: Final = {"role": "user", "content": "?"}
_MARK: Final = "probe of the system prompt"


@dataclass(frozen=True, slots=True)
class Offer:
    """A request as the answer is made and read by, and as the template is `shown` it.

    `notice` is what the caller should know of it, "" for nothing.
    """

    request: ChatRequest
    shown: ChatRequest
    notice: str = ""

    def prompt(self, tokenizer: Any, bound: TextBound | None = None) -> Prompt:
        """Return what the model reads. Raises InvalidRequest."""
        prompt = prompt_of(tokenizer, self.shown, bound)
        if self.shown is self.request or self.shown.prompt is not None:
            return prompt
        # The system prompt that reports speak of is the caller's own.
        return replace(prompt, system=system_text(self.request.messages))


class ToolOffers:
    """What becomes of tools at one model; may have its tokenizer read calls from any answer."""

    def __init__(self, tokenizer: Any, mode: Literal["refuse", "ignore", "prompt"]) -> None:
        # A model that shows tools itself, or refuses them, is the template's and `render`'s affair.
        self._by_template = mode == "refuse" or _shows_tools(tokenizer)
        self._describes = mode == "prompt" and not self._by_template
        if self._describes:
            _read_calls_as_json(tokenizer)
            self._has_system = _shows_system(tokenizer)

    def adapt(self, request: ChatRequest) -> Offer:
        """Return the request as this model can take it. Raises UnsupportedField."""
        if self._by_template or request.prompt is not None:
            return Offer(request, request)
        told = calls_as_text(request.messages)
        if self._describes:
            if request.tools:
                told = self._with_instructions(told, request.tools)
            return Offer(request, msgspec.structs.replace(request, messages=told, tools=[]))
        if isinstance(request.constraint, ToolCallConstraint):
            field = request.constraint.field
            raise UnsupportedField(
                f"{field}: this model has no tool calls, so none can be required", param=field
            )
        shown = msgspec.structs.replace(request, messages=told, tools=[])
        answered = msgspec.structs.replace(request, tools=[])
        return Offer(answered, shown, LEFT_OUT if request.tools else "")

    def _with_instructions(self, messages: Messages, tools: Tools) -> Messages:
        """Put them behind the system prompt, or before the first turn where there can be none."""
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        text = INSTRUCTIONS.format(tools=lines)
        leading = 0
        while leading < len(messages) and messages[leading]["role"] == "system":
            leading += 1
        if leading:
            at = leading - 1
            return _joined(messages, at, f"{messages[at].get('content') or ''}\n\n{text}".strip())
        if self._has_system:
            return [{"role": "system", "content": text}, *messages]
        users = (at for at, message in enumerate(messages) if message["role"] == "user")
        first = next(users, None)
        if first is None:
            return [{"role": "user", "content": text}, *messages]
        return _joined(messages, first, f"{text}\n\n{messages[first].get('content') or ''}")


def _joined(messages: Messages, at: int, content: str) -> Messages:
    return [*messages[:at], {**messages[at], "content": content}, *messages[at + 1 :]]


# --- what the template has ----------------------------------------------------------------


def _shows_tools(tokenizer: Any) -> bool:
    """Return True if the template shows tools, and the answer's calls can be read.

    Also where there is no template to ask: then the request is refused for that.
    """
    try:
        without = chat_text(tokenizer, [_USER], {})
    except InvalidRequest:
        return True
    try:
        shown = chat_text(tokenizer, [_USER], {"tools": _PROBE})
    except InvalidRequest:
        return False
    return bool(tokenizer.has_tool_calling and shown != without)


def _shows_system(tokenizer: Any) -> bool:
    try:
        return _MARK in chat_text(tokenizer, [{"role": "system", "content": _MARK}, _USER], {})
    except InvalidRequest:
        return False


def _read_calls_as_json(tokenizer: Any) -> None:
    """Give mlx_lm's tokenizer the format that the instructions ask for."""
    for name, value in {
        "_tool_parser": json_tools.parse_tool_call,
        "_tool_call_start": json_tools.tool_call_start,
        "_tool_call_end": json_tools.tool_call_end,
    }.items():
        setattr(tokenizer, name, value)
    for name, marker in {
        "_tool_call_start_tokens": json_tools.tool_call_start,
        "_tool_call_end_tokens": json_tools.tool_call_end,
    }.items():
        setattr(tokenizer, name, tuple(tokenizer.encode(marker, add_special_tokens=False)))


# --- what was said before -----------------------------------------------------------------


def calls_as_text(messages: Messages) -> Messages:
    """Return a conversation in which calls and their results are text of the two speakers.

    Results that follow each other, and what the user says after them, are one turn: many templates
    want the speakers to alternate.
    """
    told: Messages = []
    answers_call = False
    for message in messages:
        is_result = message["role"] == "tool"
        turn = _as_text(message)
        if answers_call and turn["role"] == "user":
            before = told[-1]
            content = f"{before['content']}{chr(10) if is_result else chr(10) * 2}{turn['content']}"
            told[-1] = {**before, "content": content}
        else:
            told.append(turn)
        answers_call = is_result
    return told


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls")
    if "tool_calls" not in message:
        return message
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    blocks = "\n".join(map(_call_as_text, calls or []))
    return {**rest, "content": f"{content}\n{blocks}".strip() if blocks else content}


def _call_as_text(call: dict[str, Any]) -> str:
    function = call.get("function")
    known = function if isinstance(function, dict) else {}
    said = {"name": known.get("name", ""), "arguments": _object(known.get("arguments"))}
    return f"<tool_call>\n{json.dumps(said, ensure_ascii=False)}\n</tool_call>"


def _object(arguments: Any) -> Any:
    """What a string of JSON means; the string itself where the model wrote none."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
