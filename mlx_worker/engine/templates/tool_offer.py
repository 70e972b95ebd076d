"""Tools that are offered to a model whose chat template has no tool calls.

By the model's configuration such tools are refused, left out with a warning, or described in the
system prompt. In the last case the model is instructed to write calls as JSON between two markers,
which mlx_lm's parser of that format reads. Whether the template has tool calls is checked once,
when the model is loaded. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from mlx_lm.tool_parsers import json_tools

from mlx_worker.engine.prompt import build_prompt
from mlx_worker.engine.templates.chat_text import chat_text, system_text
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.wire.request import ChatRequest, ToolCallConstraint

if TYPE_CHECKING:
    from mlx_worker.engine.checks.text_bound import TextBound
    from mlx_worker.engine.history.recall import Recall
    from mlx_worker.engine.prompt import Prompt, Tools
    from mlx_worker.engine.templates.chat_text import Messages

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
"""The description of tools for a model whose template cannot show tools."""

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
    """Hold a request for the answer, and the request that the template renders: `shown`.

    `notice` is a warning for the client, "" for none.
    """

    request: ChatRequest
    shown: ChatRequest
    notice: str = ""

    def prompt(
        self, tokenizer: Any, bound: TextBound | None = None, recall: Recall | None = None
    ) -> Prompt:
        """Return the prompt. Raises InvalidRequest."""
        prompt = build_prompt(tokenizer, self.shown, bound, recall)
        if self.shown is self.request or self.shown.prompt is not None:
            return prompt
        # Reports name the client's own system prompt.
        return replace(prompt, system=system_text(self.request.messages))


class ToolOffers:
    """Adapt requests with tools to one model; may change how its tokenizer parses calls."""

    def __init__(self, tokenizer: Any, mode: Literal["refuse", "ignore", "prompt"]) -> None:
        # Of a model whose template shows tools, or that refuses them, `render` takes care.
        self._by_template = mode == "refuse" or _shows_tools(tokenizer)
        self._describes = mode == "prompt" and not self._by_template
        if self._describes:
            _read_calls_as_json(tokenizer)
            self._has_system = _shows_system(tokenizer)

    def adapt(self, request: ChatRequest) -> Offer:
        """Return the request in a form that this model supports. Raises UnsupportedField."""
        if self._by_template or request.prompt is not None:
            return Offer(request, request)
        messages = calls_as_text(request.messages)
        if self._describes:
            if request.tools:
                messages = self._with_instructions(messages, request.tools)
            return Offer(request, msgspec.structs.replace(request, messages=messages, tools=[]))
        if isinstance(request.constraint, ToolCallConstraint):
            field = request.constraint.field
            raise UnsupportedField(
                f"{field}: this model has no tool calls, so none can be required", param=field
            )
        shown = msgspec.structs.replace(request, messages=messages, tools=[])
        answered = msgspec.structs.replace(request, tools=[])
        return Offer(answered, shown, LEFT_OUT if request.tools else "")

    def _with_instructions(self, messages: Messages, tools: Tools) -> Messages:
        """Return messages with the tools described in the system prompt, or in the first turn."""
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

    True also without a template: then the request is refused for that.
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


# --- earlier turns -------------------------------------------------------------------------


def calls_as_text(messages: Messages) -> Messages:
    """Return a conversation in which calls and their results are text of the two speakers.

    Results that follow each other, and what the user says after them, are one turn: many templates
    want the speakers to alternate.
    """
    texts: Messages = []
    answers_call = False
    for message in messages:
        is_result = message["role"] == "tool"
        turn = _as_text(message)
        if answers_call and turn["role"] == "user":
            before = texts[-1]
            content = f"{before['content']}{chr(10) if is_result else chr(10) * 2}{turn['content']}"
            texts[-1] = {**before, "content": content}
        else:
            texts.append(turn)
        answers_call = is_result
    return texts


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
    written = {"name": known.get("name", ""), "arguments": _object(known.get("arguments"))}
    return f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>"


def _object(arguments: Any) -> Any:
    """Return the value of a JSON string; the string itself if it is not valid JSON."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
