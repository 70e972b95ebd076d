"""The dialect of `POST /v1/responses`, as it is asked; `responses_reply` writes its answers.

This node keeps no responses: a conversation comes whole with every request, and whatever would
need a kept one is refused by name. Source: OpenAI's API reference, responses. [front]
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.base import Call, decode, fitted
from mlx_worker.api.dialects.conversation import Turns
from mlx_worker.api.dialects.fields import (
    Alternatives,
    ModelName,
    Samplers,
    Verbosity,
    Word,
    answer_tokens,
    ends_of,
    no_defaults,
    refuse_unsayable,
    refuse_unsupported,
    required,
    sampling,
    seed_of,
    template_kwargs,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.hosted_tools import history_warning, unknown_type
from mlx_worker.api.dialects.large_numbers import arguments_as_written, rounded
from mlx_worker.api.dialects.packing import packed_chat
from mlx_worker.api.dialects.responses import history as responses_history
from mlx_worker.api.dialects.responses.history import LEFT_OUT, WITH_TOOLS
from mlx_worker.api.dialects.responses.parts import InputPart, Parts, own_item, text_of_parts
from mlx_worker.api.dialects.responses.tools import CUSTOM_INPUT, ToolName, Tools
from mlx_worker.api.dialects.structured_output import constraint_of, formatted
from mlx_worker.config.sampler_types import Tokens
from mlx_worker.errors import UnsupportedField
from mlx_worker.json_output import encode
from mlx_worker.limits import TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import Defaults
    from mlx_worker.wire.request import JsonSchemaConstraint

LOGPROBS: Final = "message.output_text.logprobs"

INCLUDABLE: Final = frozenset(
    {
        LOGPROBS,
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
"""What the reference lets an answer include. But for `LOGPROBS`, no answer of this node has any:
reasoning is told as text, and there are no hosted tools and no images."""

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


class Item(msgspec.Struct, frozen=True):
    """One thing said, thought, called or answered; which fields it needs is told by its type."""

    type: Word | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Parts | None = None
    summary: list[InputPart] | None = None
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

    @property
    def kind(self) -> str:
        """The type; without one, an item is a message."""
        return self.type or "message"


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
    verbosity: Verbosity | None = None


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
    include: list[Word] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    background: bool | None = None
    moderation: dict[str, Any] | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    top_logprobs: Alternatives | None = None


ReasoningAs = Literal["text", "summary", "both"]


class ResponsesCall(Call, frozen=True, kw_only=True):
    """A call whose answer repeats what was asked; `reasoning_as` says where reasoning is told.

    `renamed` are the client's names of tools, by the names under which a model calls them.
    """

    FIELDS = MappingProxyType({"messages": "input", "max_tokens": "max_output_tokens"})

    repeated: dict[str, Any]
    reasoning_as: ReasoningAs
    renamed: dict[str, ToolName]

    def packed(self) -> Self:
        """Return the same call with its bulky parts packed; `repeated` is to be JSON."""
        repeated = {key: msgspec.Raw(encode(it)) for key, it in self.repeated.items()}
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
    refuse_unsayable("chat_template_kwargs", asked.chat_template_kwargs, TEMPLATE_VALUES)
    tools = _tools(asked)
    choice = tools.chosen(asked.tool_choice)
    turns, left_out = _turns(asked, tools)
    seed = seed_of(asked, defaults)
    chat = ChatRequest(
        messages=turns.made,
        sampling=sampling(asked, defaults, seed),
        max_tokens=answer_tokens(asked.max_output_tokens, defaults.max_tokens),
        template_kwargs=template_kwargs(asked, asked.reasoning.effort if asked.reasoning else None),
        logprobs=_logprobs(asked),
        tools=choice.offered,
        one_call=asked.parallel_tool_calls is False or choice.one_call,
        constraint=constraint_of(asked, choice.forced, _shape(asked.text)),
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
        renamed=tools.renamed,
        warnings=[*tools.warnings(choice.forced), *history_warning("input", left_out)],
    )


def _reasoning_as(asked: ResponsesBody, *, always: bool) -> ReasoningAs:
    if asked.reasoning and asked.reasoning.summary:
        return "summary"
    return "both" if always else "text"


def _refuse(asked: ResponsesBody) -> None:
    if asked.previous_response_id is not None:
        raise UnsupportedField(
            "previous_response_id: this node stores no responses; send the earlier items again in"
            " input, which a client does where its own store is false",
            param="previous_response_id",
        )
    refuse_unsupported(
        {
            "conversation": asked.conversation is not None,
            "prompt": asked.prompt is not None,
            "background": asked.background is True,
            "moderation": asked.moderation is not None,
        }
    )
    for name in asked.include or ():
        if name not in INCLUDABLE:
            raise UnsupportedField(f"include: {name!r} is not known here", param="include")


def _logprobs(asked: ResponsesBody) -> int | None:
    """Return how many alternatives are told with each token; None: no probabilities at all."""
    if LOGPROBS in (asked.include or ()) or asked.top_logprobs:
        return asked.top_logprobs or 0
    return None


def _tools(asked: ResponsesBody) -> Tools:
    """Return the tools of the request, and of items that brought some. Raises InvalidRequest."""
    tools = Tools()
    tools.add(rounded("tools", asked.tools or [], TOOL_VALUES), "tools")
    for i, item in enumerate(asked.input if isinstance(asked.input, list) else ()):
        if item.kind in WITH_TOOLS and item.tools:
            field = f"input[{i}].tools"
            own = rounded(field, item.tools, TOOL_VALUES)
            tools.add(fitted(own, list[dict[str, Any]], field), field)
    return tools


def _shape(asked: TextOptions | None) -> JsonSchemaConstraint | None:
    if asked is None or asked.format is None:
        return None
    return formatted(asked.format.type, asked.format.schema, "text.format", "text.format.schema")


def _repeated(asked: ResponsesBody, chat: ChatRequest) -> dict[str, Any]:
    text = asked.text or TextOptions()
    return {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "reasoning": asked.reasoning or ReasoningOptions(),
        "temperature": chat.sampling.temperature,
        "top_p": chat.sampling.top_p,
        "text": {
            "format": text.format or TextFormat("text"),
            "verbosity": text.verbosity or "medium",
        },
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
    own = own_item(asked.input)
    for i, item in enumerate(asked.input):
        if item.kind in LEFT_OUT:
            left_out.append(item.kind)
        elif item.kind not in WITH_TOOLS:
            _take(turns, item, f"input[{i}]", tools, own=i == own)
    return turns, left_out


def _take(turns: Turns, item: Item, at: str, tools: Tools, *, own: bool) -> None:
    match item.kind:
        case "message":
            role = required(item.role, f"{at}.role")
            text = text_of_parts(item.content, f"{at}.content", own=own)
            turns.said("system" if role == "developer" else role, text)
        case "reasoning":
            turns.thought(text_of_parts(item.content or item.summary or [], f"{at}.content"))
        case "function_call":
            call_id = required(item.call_id, f"{at}.call_id")
            arguments = arguments_as_written(item.arguments, f"{at}.arguments")
            turns.called(call_id, _called_name(item, at, tools), arguments)
        case "custom_tool_call":
            call_id = required(item.call_id, f"{at}.call_id")
            text = required(item.input, f"{at}.input")
            arguments = msgspec.json.encode({CUSTOM_INPUT: text}).decode()
            turns.called(call_id, _called_name(item, at, tools), arguments)
        case "function_call_output" | "custom_tool_call_output":
            call_id = required(item.call_id, f"{at}.call_id")
            turns.answered(call_id, text_of_parts(_output(item, at), f"{at}.output"))
        case kind if kind in responses_history.TYPES:
            responses_history.tell(turns, item, at)
        case other:
            raise unknown_type(f"{at}.type", other, _TYPES)


def _output(item: Item, at: str) -> Parts:
    """Return what a call came to: parts, or what is no list as text."""
    if isinstance(item.output, list):
        return fitted(item.output, list[InputPart], f"{at}.output")
    return responses_history.text_of_value(required(item.output, f"{at}.output"), f"{at}.output")


def _called_name(item: Item, at: str, tools: Tools) -> str:
    """Return the name of a called tool as the model knows the tool."""
    name = required(item.name, f"{at}.name")
    is_custom = item.kind == "custom_tool_call"
    return tools.offered_name(ToolName(item.namespace or None, name, is_custom))
