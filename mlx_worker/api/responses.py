"""The dialect of `POST /v1/responses`, as it is asked; `responses_reply` writes its answers.

This node keeps no responses: a conversation comes whole with every request, and whatever would
need a kept one is refused by name. Source: OpenAI's API reference, responses. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import msgspec
from msgspec.structs import replace

from mlx_worker.api.chat import Part
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
    template_kwargs,
)
from mlx_worker.api.other_servers import refuse_foreign
from mlx_worker.api.packing import packed_chat
from mlx_worker.api.shapes import constraint_of, formatted, must_call
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


Parts = str | list[Part]


class Item(msgspec.Struct, frozen=True):
    """One thing said, thought, called or answered; which fields it needs is told by its type."""

    type: Word = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Parts | None = None
    summary: list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Parts | None = None


class FlatTool(msgspec.Struct, frozen=True):
    """A tool that is offered; there are only functions."""

    type: Literal["function"]
    name: Word
    description: str | None = None
    parameters: dict[str, Any] | None = None


class TextFormat(msgspec.Struct, frozen=True):
    """The shape of the answer; a schema is kept to, `strict` or not."""

    type: Word
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ChosenTool(msgspec.Struct, frozen=True):
    """The tool that has to be called."""

    type: Literal["function"]
    name: Word


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


class ResponsesCall(Call, frozen=True):
    """A call whose answer repeats what was asked; `reasoning_as` says where reasoning is told."""

    repeated: dict[str, Any]
    reasoning_as: ReasoningAs

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
    refuse_foreign(body, "responses", ResponsesBody)
    defaults = defaults_of(asked.model)
    _refuse(asked)
    turns = _turns(asked)
    tools = asked.tools or []
    refuse_unsayable("chat_template_kwargs", asked.chat_template_kwargs, TEMPLATE_VALUES)
    refuse_unsayable("tools", tools, TOOL_VALUES)
    fitted(tools, list[FlatTool], "tools")
    seed = seed_of(asked, defaults)
    chat = ChatRequest(
        messages=turns.made,
        sampling=sampling(asked, defaults, seed),
        max_tokens=first_given(asked.max_output_tokens, defaults.max_tokens),
        template_kwargs=template_kwargs(asked, asked.reasoning.effort if asked.reasoning else None),
        tools=[] if asked.tool_choice == "none" else [_nested(tool) for tool in tools],
        one_call=asked.parallel_tool_calls is False or isinstance(asked.tool_choice, dict),
        constraint=constraint_of(asked, _forced(asked), _shape(asked.text)),
        ends=ends_of(asked),
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


def _forced(asked: ResponsesBody) -> m.Call | None:
    """The calls that an answer has to be. Raises InvalidRequest."""
    choice = asked.tool_choice
    if choice in (None, "none", "auto"):
        return None
    names = [tool["name"] for tool in asked.tools or []]
    if choice == "required":
        return must_call(names, "tool_choice")
    if isinstance(choice, str) or choice.get("type") != "function":
        raise UnsupportedField(f"tool_choice: {choice!r} is not understood", param="tool_choice")
    return must_call(names, "tool_choice", fitted(choice, ChosenTool, "tool_choice").name)


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


def _nested(tool: dict[str, Any]) -> dict[str, Any]:
    """A flat tool as chat templates know it."""
    said = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key)}
    return {"type": "function", "function": said}


# --- input --------------------------------------------------------------------------------


def _turns(asked: ResponsesBody) -> Turns:
    turns = Turns()
    if asked.instructions:
        turns.said("system", asked.instructions)
    if isinstance(asked.input, str):
        turns.said("user", asked.input)
        return turns
    for i, item in enumerate(asked.input):
        _take(turns, item, f"input[{i}]")
    return turns


def _take(turns: Turns, item: Item, at: str) -> None:
    match item.type:
        case "message":
            role = required(item.role, f"{at}.role")
            text = _text(item.content, f"{at}.content")
            turns.said("system" if role == "developer" else role, text)
        case "reasoning":
            turns.thought(_text(item.content or item.summary or [], f"{at}.content"))
        case "function_call":
            turns.called(
                required(item.call_id, f"{at}.call_id"),
                required(item.name, f"{at}.name"),
                required(item.arguments, f"{at}.arguments"),
            )
        case "function_call_output":
            call_id = required(item.call_id, f"{at}.call_id")
            turns.answered(call_id, _text(item.output, f"{at}.output"))
        case "item_reference":
            raise UnsupportedField(
                f"{at}: this node keeps no items; send the item itself", param=f"{at}.type"
            )
        case other:
            raise UnsupportedField(
                f"{at}: items of type {other!r} are not understood", param=f"{at}.type"
            )


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
