"""The dialect of `POST /v1/messages` and `…/count_tokens`; `messages_reply` writes its answers.

`cache_control` is accepted and not needed: every prefix that was read is a candidate for reuse.
Source: Anthropic's API reference, messages. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from mlx_worker.api.dialect import Call, decode, fitted
from mlx_worker.api.fields import (
    ModelName,
    Samplers,
    Word,
    ends_of,
    first_given,
    no_defaults,
    refuse_unsayable,
    refuse_unsupported,
    required,
    sampling,
    seed_of,
    stop_words,
    template_kwargs,
)
from mlx_worker.api.other_servers import refuse_foreign
from mlx_worker.api.shapes import constraint_of, fitting, must_call
from mlx_worker.api.turns import Turns
from mlx_worker.errors import UnsupportedField
from mlx_worker.limits import CALL_VALUES, TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.sampler_types import Tokens
from mlx_worker.wire.messages import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config import Defaults
    from mlx_worker.wire import messages as m

BILLING = "x-anthropic-billing-header:"
"""A line at the head of a coding agent's system prompt, new with every request: with it in place
no prefix would ever be found again."""

PARAGRAPH = "\n\n"


class TextBlock(msgspec.Struct, frozen=True):
    """Words; what else a block may be is refused by its type."""

    type: Word
    text: str | None = None


class Block(msgspec.Struct, frozen=True):
    """One part of a message; which fields it needs is told by its type."""

    type: Word
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[TextBlock] | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True):
    """A tool that is offered; there are only the caller's own."""

    name: Word
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether tools may or have to be called, which one, and how many at a time."""

    type: Literal["auto", "none", "any", "tool"]
    name: Word | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True):
    """Whether the model is to think first, where its template knows a switch."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]


class OutputFormat(msgspec.Struct, frozen=True):
    """The shape of the answer."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """How much effort, and in which shape."""

    effort: Word | None = None
    format: OutputFormat | None = None


class MessagesBody(Samplers, frozen=True, kw_only=True):
    """The fields that this node knows."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=10_000)]
    model: ModelName | None = None
    system: str | list[TextBlock] | None = None
    max_tokens: Tokens | None = None
    stop_sequences: list[Word] | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    container: str | dict[str, Any] | None = None
    mcp_servers: list[dict[str, Any]] | None = None


def parse(body: bytes, defaults_of: Callable[[str | None], Defaults] = no_defaults) -> Call:
    """A request body as a call. Raises InvalidRequest, which names the field."""
    asked = decode(body, MessagesBody)
    refuse_foreign(body, "messages", MessagesBody)
    if asked.messages[-1].role == "assistant":
        last = f"messages[{len(asked.messages) - 1}]"
        raise UnsupportedField(
            f"{last}: the assistant's last words cannot be gone on with; end with the user's",
            param=last,
        )
    defaults = defaults_of(asked.model)
    seed = seed_of(asked, defaults)
    return Call(
        model=asked.model,
        chats=[_chat(asked, defaults, seed)],
        seed=seed,
        n=1,
        stream=bool(asked.stream),
        include_usage=True,
    )


def parse_to_count(body: bytes) -> tuple[str | None, ChatRequest]:
    """A body whose tokens are to be counted: for which model, and what."""
    asked = decode(body, MessagesBody)
    return asked.model, _chat(asked, no_defaults(None), seed=0)


def _chat(asked: MessagesBody, defaults: Defaults, seed: int) -> ChatRequest:
    choice = asked.tool_choice or ToolChoice("auto")
    _refuse(asked)
    turns = _turns(asked)
    tools = asked.tools or []
    refuse_unsayable("chat_template_kwargs", asked.chat_template_kwargs, TEMPLATE_VALUES)
    refuse_unsayable("tools", tools, TOOL_VALUES)
    refuse_unsayable("messages", turns.calls, CALL_VALUES)
    fitted(tools, list[Tool], "tools")
    return ChatRequest(
        messages=turns.made,
        sampling=sampling(asked, defaults, seed),
        max_tokens=first_given(asked.max_tokens, defaults.max_tokens),
        stop=stop_words(asked.stop_sequences, "stop_sequences"),
        template_kwargs=_template_kwargs(asked),
        tools=[] if choice.type == "none" else [_as_function(tool) for tool in tools],
        one_call=choice.disable_parallel_tool_use is True or choice.type == "tool",
        constraint=constraint_of(asked, _forced(asked, choice), _shape(asked)),
        ends=ends_of(asked),
    )


def _forced(asked: MessagesBody, choice: ToolChoice) -> m.Call | None:
    """The calls that an answer has to be. Raises InvalidRequest."""
    if choice.type in ("auto", "none"):
        return None
    only = required(choice.name, "tool_choice.name") if choice.type == "tool" else None
    return must_call([tool["name"] for tool in asked.tools or []], "tool_choice", only)


def _shape(asked: MessagesBody) -> m.JsonSchema | None:
    if asked.output_config is not None and asked.output_config.format is not None:
        return fitting(asked.output_config.format.schema, "output_config.format.schema")
    if asked.output_format is not None:  # as it was called while in beta
        return fitting(asked.output_format.schema, "output_format.schema")
    return None


def _refuse(asked: MessagesBody) -> None:
    refuse_unsupported(
        {
            "container": asked.container is not None,
            "mcp_servers": bool(asked.mcp_servers),
        }
    )


def _template_kwargs(asked: MessagesBody) -> dict[str, Any]:
    told = template_kwargs(asked, asked.output_config.effort if asked.output_config else None)
    if asked.thinking is None:
        return told
    return {"enable_thinking": asked.thinking.type != "disabled"} | told


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as chat templates know it."""
    said = {key: tool[key] for key in ("name", "description") if tool.get(key)}
    return {
        "type": "function",
        "function": said | {"parameters": tool.get("input_schema") or {}},
    }


# --- what was said ------------------------------------------------------------------------


def _turns(asked: MessagesBody) -> Turns:
    turns = Turns()
    if system := _without_billing(_words(asked.system or "", "system")):
        turns.said("system", system)
    for i, message in enumerate(asked.messages):
        if isinstance(message.content, str):
            turns.said(message.role, message.content)
        else:
            _take(turns, message.role, message.content, f"messages[{i}].content")
    return turns


def _without_billing(system: str) -> str:
    if not system.startswith(BILLING):
        return system
    _, _, rest = system.partition("\n")
    return rest.lstrip("\n")


def _take(turns: Turns, role: str, blocks: list[Block], at: str) -> None:
    words: list[str] = []
    for k, block in enumerate(blocks):
        field = f"{at}[{k}]"
        match block.type:
            case "text" if role == "assistant":
                turns.said(role, required(block.text, f"{field}.text"))
            case "text":
                words.append(required(block.text, f"{field}.text"))
            case "thinking" if role == "assistant":
                turns.thought(required(block.thinking, f"{field}.thinking"))
            case "redacted_thinking" if role == "assistant":
                pass  # another server's, and nobody else can read it
            case "tool_use" if role == "assistant":
                name = required(block.name, f"{field}.name")
                turns.called(required(block.id, f"{field}.id"), name, block.input or {})
            case "tool_result" if role == "user":
                call_id = required(block.tool_use_id, f"{field}.tool_use_id")
                turns.answered(call_id, _words(block.content or "", f"{field}.content"))
            case other:
                raise UnsupportedField(
                    f"{field}: blocks of type {other!r} are not understood from the {role}",
                    param=field,
                )
    if words:
        turns.said(role, PARAGRAPH.join(words))


def _words(content: str | list[TextBlock], at: str) -> str:
    if isinstance(content, str):
        return content
    for k, block in enumerate(content):
        if block.type != "text":
            raise UnsupportedField(
                f"{at}[{k}]: blocks of type {block.type!r} are not understood, only text",
                param=f"{at}[{k}]",
            )
        required(block.text, f"{at}[{k}].text")
    return PARAGRAPH.join(block.text or "" for block in content)
