"""The dialect of `POST /v1/responses`, as it is asked; `responses_reply` writes its answers.

This node keeps no responses: a conversation comes whole with every request, and whatever would
need a kept one is refused by name. Source: OpenAI's API reference, responses. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import msgspec
from msgspec.structs import replace

from mlx_worker.api import responses_history
from mlx_worker.api.chat import Part
from mlx_worker.api.dialect import Call, decode, fitted
from mlx_worker.api.fields import (
    ModelName,
    Samplers,
    Word,
    first_given,
    no_defaults,
    refuse_unsayable,
    refuse_unsupported,
    required,
    sampling,
    seed_of,
    template_kwargs,
)
from mlx_worker.api.hosted_tools import history_warning, unknown_type
from mlx_worker.api.packing import packed_chat
from mlx_worker.api.responses_history import LEFT_OUT, WITH_TOOLS
from mlx_worker.api.responses_tools import CUSTOM_INPUT, ToolName, Tools
from mlx_worker.api.shapes import constraint_of, formatted
from mlx_worker.api.turns import Turns
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.limits import TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.sampler_types import Tokens
from mlx_worker.wire.messages import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config import Defaults
    from mlx_worker.wire import messages as m

TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
SAID_IN_FULL = "reasoning.encrypted_content"
"""Reasoning goes to the caller as text: there is nothing encrypted to include."""


_TYPES = (
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    *responses_history.TYPES,
)
"""Types of items that a model is told of."""

Parts = str | list[Part]


class Item(msgspec.Struct, frozen=True):
    """One thing said, thought, called or answered; which fields it needs is told by its type."""

    type: Word = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Parts | None = None
    summary: list[Part] | None = None
    id: str | None = None
    call_id: str | None = None
    namespace: str | None = None
    name: str | None = None
    arguments: Any = None
    input: str | None = None
    output: Any = None
    error: Any = None
    action: Any = None
    operation: Any = None
    server_label: str | None = None
    tools: Any = None


class TextFormat(msgspec.Struct, frozen=True):
    """The shape of the answer; a schema is kept to, `strict` or not."""

    type: Word
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """How the text is to be."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct, frozen=True):
    """How much is to be reasoned."""

    effort: Word | None = None
    summary: str | None = None


class ResponsesBody(Samplers, frozen=True, kw_only=True):
    """The fields that this node knows."""

    input: str | Annotated[list[Item], msgspec.Meta(min_length=1, max_length=10_000)]
    model: ModelName | None = None
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Word | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[str, str], msgspec.Meta(max_length=1000)] | None = None
    include: list[str] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    background: bool | None = None
    moderation: dict[str, Any] | None = None
    store: bool | None = None
    truncation: str | None = None
    top_logprobs: int | None = None


ReasoningAs = Literal["text", "summary", "both"]


class ResponsesCall(Call, frozen=True, kw_only=True):
    """A call whose answer repeats what was asked; `reasoning_as` says where reasoning is told.

    `renamed` are the client's names of tools, by the names under which a model calls them.
    """

    repeated: dict[str, Any]
    reasoning_as: ReasoningAs
    renamed: dict[str, ToolName]

    def packed(self) -> Self:
        """Return the same call with its bulky parts packed; `repeated` is to be JSON."""
        repeated = {key: msgspec.Raw(msgspec.json.encode(it)) for key, it in self.repeated.items()}
        return replace(self, chats=[packed_chat(chat) for chat in self.chats], repeated=repeated)


def parse(
    body: bytes,
    defaults_of: Callable[[str | None], Defaults] = no_defaults,
    *,
    summaries: Literal["asked", "always"] = "asked",
) -> ResponsesCall:
    """A request body as a call. Raises InvalidRequest, which names the field.

    `summaries`: a request that asks for no summary of reasoning gets one too, beside the text.
    """
    asked = decode(body, ResponsesBody)
    defaults = defaults_of(asked.model)
    _refuse(asked)
    refuse_unsayable("chat_template_kwargs", asked.chat_template_kwargs, TEMPLATE_VALUES)
    tools = _tools(asked)
    choice = tools.chosen(asked.tool_choice)
    turns, left_out = _turns(asked, tools)
    seed = seed_of(asked, defaults)
    chat = ChatRequest(
        messages=turns.made,
        sampling=sampling(asked, defaults, seed),
        max_tokens=first_given(asked.max_output_tokens, defaults.max_tokens),
        template_kwargs=template_kwargs(asked, asked.reasoning.effort if asked.reasoning else None),
        tools=choice.offered,
        one_call=asked.parallel_tool_calls is False or choice.one_call,
        constraint=constraint_of(asked, choice.forced, _shape(asked.text)),
    )
    return ResponsesCall(
        model=asked.model,
        chats=[chat],
        seed=seed,
        n=1,
        stream=bool(asked.stream),
        include_usage=True,
        repeated=_repeated(asked, chat),
        reasoning_as=_reasoning_as(asked, always=summaries == "always"),
        renamed=tools.renamed,
        warnings=[*tools.warnings(choice.forced), *history_warning("input", left_out)],
    )


def _reasoning_as(asked: ResponsesBody, *, always: bool) -> ReasoningAs:
    if asked.reasoning and asked.reasoning.summary:
        return "summary"
    return "both" if always else "text"


def _refuse(asked: ResponsesBody) -> None:
    text = asked.text or TextOptions()
    if asked.previous_response_id is not None:
        raise UnsupportedField(
            "previous_response_id: this node keeps no responses; send the whole conversation in"
            " input",
            param="previous_response_id",
        )
    refuse_unsupported(
        {
            "conversation": asked.conversation is not None,
            "prompt": asked.prompt is not None,
            "background": asked.background is True,
            "moderation": asked.moderation is not None,
            "store": asked.store is True,
            "truncation": asked.truncation not in (None, "disabled"),
            "include": any(it != SAID_IN_FULL for it in asked.include or ()),
            "top_logprobs": bool(asked.top_logprobs),
            "text.verbosity": text.verbosity not in (None, "medium"),
        }
    )


def _tools(asked: ResponsesBody) -> Tools:
    """Return the tools of the request, and of items that brought some. Raises InvalidRequest."""
    refuse_unsayable("tools", asked.tools, TOOL_VALUES)
    tools = Tools()
    tools.add(asked.tools or [], "tools")
    for i, item in enumerate(asked.input if isinstance(asked.input, list) else ()):
        if item.type in WITH_TOOLS and item.tools:
            field = f"input[{i}].tools"
            refuse_unsayable(field, item.tools, TOOL_VALUES)
            tools.add(fitted(item.tools, list[dict[str, Any]], field), field)
    return tools


def _shape(asked: TextOptions | None) -> m.JsonSchema | None:
    if asked is None or asked.format is None:
        return None
    return formatted(asked.format.type, asked.format.schema, "text.format", "text.format.schema")


def _repeated(asked: ResponsesBody, chat: ChatRequest) -> dict[str, Any]:
    return {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "reasoning": asked.reasoning or ReasoningOptions(),
        "temperature": chat.sampling.temperature,
        "top_p": chat.sampling.top_p,
        "text": {"format": (asked.text and asked.text.format) or TextFormat("text")},
        "tool_choice": asked.tool_choice or "auto",
        "tools": asked.tools or [],
    }


# --- input --------------------------------------------------------------------------------


def _turns(asked: ResponsesBody, tools: Tools) -> tuple[Turns, list[str]]:
    """Return the conversation, and the types of items that are left out of it."""
    turns = Turns()
    left_out: list[str] = []
    if asked.instructions:
        turns.said("system", asked.instructions)
    if isinstance(asked.input, str):
        turns.said("user", asked.input)
        return turns, left_out
    for i, item in enumerate(asked.input):
        if item.type in LEFT_OUT:
            left_out.append(item.type)
        elif item.type not in WITH_TOOLS:
            _take(turns, item, f"input[{i}]", tools)
    return turns, left_out


def _take(turns: Turns, item: Item, at: str, tools: Tools) -> None:
    match item.type:
        case "message":
            role = required(item.role, f"{at}.role")
            text = _text(item.content, f"{at}.content")
            turns.said("system" if role == "developer" else role, text)
        case "reasoning":
            turns.thought(_text(item.content or item.summary or [], f"{at}.content"))
        case "function_call":
            call_id = required(item.call_id, f"{at}.call_id")
            arguments = fitted(required(item.arguments, f"{at}.arguments"), str, f"{at}.arguments")
            turns.called(call_id, _called_name(item, at, tools), arguments)
        case "custom_tool_call":
            call_id = required(item.call_id, f"{at}.call_id")
            text = required(item.input, f"{at}.input")
            arguments = msgspec.json.encode({CUSTOM_INPUT: text}).decode()
            turns.called(call_id, _called_name(item, at, tools), arguments)
        case "function_call_output" | "custom_tool_call_output":
            call_id = required(item.call_id, f"{at}.call_id")
            turns.answered(call_id, _text(_output(item, at), f"{at}.output"))
        case kind if kind in responses_history.TYPES:
            responses_history.tell(turns, item, at)
        case other:
            raise unknown_type(f"{at}.type", other, _TYPES)


def _output(item: Item, at: str) -> Parts | None:
    """Return what a call came to. Other items' `output` may be anything."""
    if item.output is None or isinstance(item.output, str):
        return item.output
    return fitted(item.output, list[Part], f"{at}.output")


def _called_name(item: Item, at: str, tools: Tools) -> str:
    """Return the name of a called tool as the model knows the tool."""
    name = required(item.name, f"{at}.name")
    is_custom = item.type == "custom_tool_call"
    return tools.offered_name(ToolName(item.namespace or None, name, is_custom))


def _text(content: Parts | None, field: str) -> str:
    if content is None:
        raise InvalidRequest(f"{field}: is required", param=field)
    if isinstance(content, str):
        return content
    for k, part in enumerate(content):
        if part.type not in TEXT_PARTS:
            raise UnsupportedField(
                f"{field}[{k}]: parts of type {part.type!r} are not understood, only text",
                param=f"{field}[{k}]",
            )
        required(part.text, f"{field}[{k}].text")
    return "".join(part.text or "" for part in content)
