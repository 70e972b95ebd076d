"""The dialects from a client's side: the bodies of requests, and the reading of responses.

The reader of a stream also checks the order of its events: an event that is missing, doubled or out
of place fails there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sse import Event

PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}
LOOK = {"name": "look", "description": "Look there.", "parameters": PARAMETERS}


@dataclass(frozen=True)
class Usage:
    """Tokens, as chat completions count them."""

    prompt: int
    cached: int
    completion: int


@dataclass
class ReceivedAnswer:
    """An answer, received in any dialect. `finish` in the words of chat completions."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    finish: str = ""
    usage: Usage | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BrokenStream:
    """A stream that failed: its text before the error, and the message of its last event."""

    text: str
    message: str


@dataclass(frozen=True)
class Dialect:
    """One dialect. `body(text, **fields)` is a request; the readers take its responses."""

    name: str
    path: str
    limit: str
    body: Callable[..., dict[str, Any]]
    read_full: Callable[[Any], ReceivedAnswer]
    read_stream: Callable[[list[Event]], ReceivedAnswer]
    read_broken: Callable[[list[Event]], BrokenStream]
    read_error: Callable[[Any], str]
    chats: bool = True

    def __repr__(self) -> str:
        return self.name


# --- OpenAI: chat completions and completions -----------------------------------------------


def _openai_usage(usage: Any) -> Usage:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Usage(usage["prompt_tokens"], cached, usage["completion_tokens"])


def _openai_refusal(body: Any) -> str:
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


def _openai_streamed(
    take: Callable[[ReceivedAnswer, Any], None], events: list[Event]
) -> ReceivedAnswer:
    *chunks, (_, done) = events
    assert done == "[DONE]"
    received = ReceivedAnswer()
    for name, chunk in chunks:
        assert name is None
        assert chunk["id"] == chunks[0][1]["id"]
        if not chunk["choices"]:
            received.usage = _openai_usage(chunk["usage"])
            continue
        assert chunk.get("usage") is None, "only the last chunk tells the usage"
        (choice,) = chunk["choices"]
        assert received.finish == "", "there is no text after the end"
        received.finish = choice["finish_reason"] or ""
        received.warnings += choice.get("warnings", [])
        take(received, choice)
    assert received.finish
    return received


def _openai_broken(
    take: Callable[[ReceivedAnswer, Any], None], events: list[Event]
) -> BrokenStream:
    *chunks, (_, last) = events
    received = ReceivedAnswer()
    for _, chunk in chunks:
        assert chunk["choices"][0]["finish_reason"] is None
        take(received, chunk["choices"][0])
    return BrokenStream(received.text, _openai_refusal(last))


def _chat_body(text: str, **fields: Any) -> dict[str, Any]:
    system = fields.pop("system", None)
    head = [] if system is None else [{"role": "system", "content": system}]
    usage = {"stream_options": {"include_usage": True}} if fields.get("stream") else {}
    return {"messages": [*head, {"role": "user", "content": text}]} | usage | fields


def _chat_delta(received: ReceivedAnswer, choice: Any) -> None:
    delta = choice["delta"]
    received.text += delta.get("content") or ""
    received.reasoning += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls", []):
        if call["index"] == len(received.calls):
            received.calls.append((call["id"], call["function"]["name"], ""))
        id_, name, arguments = received.calls[call["index"]]
        received.calls[call["index"]] = (id_, name, arguments + call["function"]["arguments"])


def _chat_streamed(events: list[Event]) -> ReceivedAnswer:
    received = _openai_streamed(_chat_delta, events)
    received.calls = [(id_, name, json.loads(arguments)) for id_, name, arguments in received.calls]
    return received


def _chat_whole(body: Any) -> ReceivedAnswer:
    (choice,) = body["choices"]
    message = choice["message"]
    return ReceivedAnswer(
        message["content"] or "",
        message.get("reasoning_content", ""),
        [
            (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls", [])
        ],
        choice["finish_reason"],
        _openai_usage(body["usage"]),
        choice.get("warnings", []),
    )


CHAT = Dialect(
    "chat completions",
    "/v1/chat/completions",
    "max_tokens",
    _chat_body,
    _chat_whole,
    _chat_streamed,
    partial(_openai_broken, _chat_delta),
    _openai_refusal,
)


def _completion_body(text: str, **fields: Any) -> dict[str, Any]:
    usage = {"stream_options": {"include_usage": True}} if fields.get("stream") else {}
    return {"prompt": text} | usage | fields


def _completion_text(received: ReceivedAnswer, choice: Any) -> None:
    received.text += choice["text"]


def _completion_whole(body: Any) -> ReceivedAnswer:
    (choice,) = body["choices"]
    usage = _openai_usage(body["usage"])
    return ReceivedAnswer(choice["text"], finish=choice["finish_reason"], usage=usage)


COMPLETIONS = Dialect(
    "completions",
    "/v1/completions",
    "max_tokens",
    _completion_body,
    _completion_whole,
    partial(_openai_streamed, _completion_text),
    partial(_openai_broken, _completion_text),
    _openai_refusal,
    chats=False,
)

# --- OpenAI: responses ----------------------------------------------------------------------


def _responses_body(text: str, **fields: Any) -> dict[str, Any]:
    system = fields.pop("system", None)
    head = [] if system is None else [{"role": "system", "content": system}]
    message = {"role": "user", "content": [{"type": "input_text", "text": text}]}
    return {"input": [*head, message]} | fields


def _responses_whole(body: Any) -> ReceivedAnswer:
    received = ReceivedAnswer(warnings=body.get("warnings", []))
    for item in body["output"]:
        match item["type"]:
            case "message":
                received.text += "".join(part["text"] for part in item["content"])
            case "reasoning":
                parts = item["summary"] or item["content"]
                received.reasoning += "".join(part["text"] for part in parts)
            case "function_call":
                arguments = json.loads(item["arguments"])
                received.calls.append((item["call_id"], _spaced_name(item), arguments))
            case "custom_tool_call":
                received.calls.append((item["call_id"], _spaced_name(item), item["input"]))
    cut = body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["status"] == ("incomplete" if cut else "completed")
    received.finish = "length" if cut else "tool_calls" if received.calls else "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    received.usage = Usage(usage["input_tokens"], cached, usage["output_tokens"])
    return received


def _spaced_name(item: Any) -> str:
    """The name of what was called, a namespace before a slash."""
    space = item.get("namespace")
    return str(item["name"]) if space is None else f"{space}/{item['name']}"


class _ResponsesReader:
    """Events, held to their order: an item is added, has a part, grows, is done."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.item: Any = None
        self.item_text = ""
        self.text = ""

    def add(self, data: Any) -> None:
        kind = data["type"]
        if kind == "response.output_item.added":
            assert self.item is None
            self.item, self.item_text = data["item"], ""
            assert self.item["status"] == "in_progress"
        elif kind.endswith(".delta"):
            self.item_text += data["delta"]
            if kind == "response.output_text.delta":
                self.text += data["delta"]
        elif kind.endswith("_text.done"):
            assert data["text"] == self.item_text
        elif kind == "response.function_call_arguments.done":
            assert data["arguments"] == self.item_text
            assert data["name"] == self.item["name"]
        elif kind == "response.custom_tool_call_input.done":
            assert data["input"] == self.item_text
        elif kind == "response.output_item.done":
            assert data["item"].keys() == self.item.keys()
            same = self.item.keys() & {"id", "type", "call_id", "namespace", "name"}
            assert all(data["item"][key] == self.item[key] for key in same)
            self.done.append(data["item"])
            self.item = None
        else:
            assert kind.removesuffix(".added").removesuffix(".done").endswith("_part")
            assert data["part"]["text"] == ("" if kind.endswith("added") else self.item_text)
        if kind.startswith("response.output_item"):
            assert data["output_index"] == len(self.done) - kind.endswith("done")
        else:
            assert (data["output_index"], data["item_id"]) == (len(self.done), self.item["id"])


def _numbered(events: list[Event]) -> list[Any]:
    events_data = [data for _, data in events]
    assert [name for name, _ in events] == [event["type"] for event in events_data]
    assert [event["sequence_number"] for event in events_data] == list(range(len(events_data)))
    assert [event["type"] for event in events_data[:2]] == [
        "response.created",
        "response.in_progress",
    ]
    later = [event for event in events_data[2:] if event["type"] != "response.in_progress"]
    return events_data[:2] + later


def _responses_streamed(events: list[Event]) -> ReceivedAnswer:
    created, _, *events_data, last = _numbered(events)
    reader = _ResponsesReader()
    for data in events_data:
        reader.add(data)
    assert reader.item is None
    assert last["type"] == f"response.{last['response']['status']}"
    assert last["response"]["id"] == created["response"]["id"]
    assert last["response"]["output"] == reader.done
    return _responses_whole(last["response"])


def _responses_broken(events: list[Event]) -> BrokenStream:
    _, _, *events_data, last = _numbered(events)
    reader = _ResponsesReader()
    for data in events_data:
        reader.add(data)
    assert last["type"] == "error"
    assert isinstance(last["code"], str)
    return BrokenStream(reader.text, last["message"])


RESPONSES = Dialect(
    "responses",
    "/v1/responses",
    "max_output_tokens",
    _responses_body,
    _responses_whole,
    _responses_streamed,
    _responses_broken,
    _openai_refusal,
)

# --- Anthropic: messages --------------------------------------------------------------------

FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}


def _messages_body(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]} | fields


def _anthropic_usage(usage: Any) -> Usage:
    cached = usage["cache_read_input_tokens"]
    prompt = usage["input_tokens"] + cached + usage["cache_creation_input_tokens"]
    return Usage(prompt, cached, usage["output_tokens"])


def _messages_whole(body: Any) -> ReceivedAnswer:
    received = ReceivedAnswer(
        finish=FINISHES[body["stop_reason"]], warnings=body.get("warnings", [])
    )
    assert (body["type"], body["role"]) == ("message", "assistant")
    for block in body["content"]:
        match block["type"]:
            case "text":
                received.text += block["text"]
            case "thinking":
                received.reasoning += block["thinking"]
            case "tool_use":
                received.calls.append((block["id"], block["name"], block["input"]))
    received.usage = _anthropic_usage(body["usage"])
    return received


class _MessagesReader:
    """Events, held to their order: a block starts, grows and stops before the next."""

    def __init__(self) -> None:
        self.blocks: list[Any] = []
        self.open = False

    def add(self, data: Any) -> None:
        kind = data["type"]
        assert data["index"] == len(self.blocks) - (kind != "content_block_start")
        match kind:
            case "content_block_start":
                assert not self.open
                self.blocks.append(dict(data["content_block"]) | {"json": ""})
                self.open = True
            case "content_block_delta":
                assert self.open
                self._grow(self.blocks[-1], data["delta"])
            case "content_block_stop":
                assert self.open
                self.open = False
                if rest := self.blocks[-1].pop("json"):
                    self.blocks[-1]["input"] = json.loads(rest)
            case other:
                raise AssertionError(other)

    @property
    def text(self) -> str:
        return "".join(block["text"] for block in self.blocks if block["type"] == "text")

    def _grow(self, block: Any, delta: Any) -> None:
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "input_json_delta":
                block["json"] += delta["partial_json"]
            case other:
                raise AssertionError(other)


def _named(events: list[Event]) -> list[Any]:
    assert [name for name, _ in events] == [data["type"] for _, data in events]
    events_data = [data for _, data in events if data["type"] != "ping"]
    assert events_data[0]["type"] == "message_start"
    assert events_data[0]["message"]["content"] == []
    return events_data


def _messages_streamed(events: list[Event]) -> ReceivedAnswer:
    start, *events_data, delta, stop = _named(events)
    assert (delta["type"], stop["type"]) == ("message_delta", "message_stop")
    reader = _MessagesReader()
    for data in events_data:
        reader.add(data)
    assert not reader.open
    read = _anthropic_usage(start["message"]["usage"])
    usage = _anthropic_usage(delta["usage"])
    if read.prompt:  # 0 in a stream that began before its prompt was read
        assert (read.prompt, read.cached, read.completion) == (usage.prompt, usage.cached, 0)
    ended = {"content": reader.blocks, "usage": delta["usage"], **delta["delta"]}
    warned = {"warnings": delta["warnings"]} if "warnings" in delta else {}
    return _messages_whole(start["message"] | ended | warned)


def _messages_broken(events: list[Event]) -> BrokenStream:
    _, *events_data, last = _named(events)
    reader = _MessagesReader()
    for data in events_data:
        reader.add(data)
    return BrokenStream(reader.text, _anthropic_refusal(last))


def _anthropic_refusal(body: Any) -> str:
    assert set(body) == {"type", "error"}
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    return str(body["error"]["message"])


MESSAGES = Dialect(
    "messages",
    "/v1/messages",
    "max_tokens",
    _messages_body,
    _messages_whole,
    _messages_streamed,
    _messages_broken,
    _anthropic_refusal,
)

ALL = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
CHATS = (CHAT, RESPONSES, MESSAGES)
