"""The dialects as their callers have them: how to ask in each, and how to read its answers.

A reader of a stream holds it to its dialect's own law of order: what is missing, doubled or out of
place fails there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMETERS = {"type": "object", "properties": {"at": {"type": "string"}}}
LOOK = {"name": "look", "description": "Look there.", "parameters": PARAMETERS}


@dataclass(frozen=True)
class Usage:
    """Tokens, as chat completions count them."""

    prompt: int
    cached: int
    completion: int


@dataclass
class Heard:
    """An answer, whatever it was told in. `finish` in the words of chat completions."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    finish: str = ""
    usage: Usage | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Broken:
    """A stream that failed: what was said before, and the message of its last event."""

    text: str
    message: str


Event = tuple[str | None, Any]


def events_of(stream: bytes) -> list[Event]:
    """(name, data) of each event, data parsed but for [DONE]; comments are passed over."""
    *blocks, rest = stream.decode().split("\n\n")
    assert rest == "", "the last event is whole"
    events: list[Event] = []
    for block in blocks:
        if block.startswith(":"):
            continue
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(lines) <= {"event", "data"}
        data = lines["data"]
        events.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return events


@dataclass(frozen=True)
class Dialect:
    """One way to ask. `body(text, **fields)` asks; the others read what comes back."""

    name: str
    path: str
    limit: str
    body: Callable[..., dict[str, Any]]
    whole: Callable[[Any], Heard]
    streamed: Callable[[list[Event]], Heard]
    broken: Callable[[list[Event]], Broken]
    refusal: Callable[[Any], str]
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


def _openai_streamed(take: Callable[[Heard, Any], None], events: list[Event]) -> Heard:
    *chunks, (_, done) = events
    assert done == "[DONE]"
    heard = Heard()
    for name, chunk in chunks:
        assert name is None
        assert chunk["id"] == chunks[0][1]["id"]
        if not chunk["choices"]:
            heard.usage = _openai_usage(chunk["usage"])
            continue
        assert chunk.get("usage") is None, "only the last chunk tells the usage"
        (choice,) = chunk["choices"]
        assert heard.finish == "", "nothing is said after the end"
        heard.finish = choice["finish_reason"] or ""
        heard.warnings += choice.get("warnings", [])
        take(heard, choice)
    assert heard.finish
    return heard


def _openai_broken(take: Callable[[Heard, Any], None], events: list[Event]) -> Broken:
    *chunks, (_, last) = events
    heard = Heard()
    for _, chunk in chunks:
        assert chunk["choices"][0]["finish_reason"] is None
        take(heard, chunk["choices"][0])
    return Broken(heard.text, _openai_refusal(last))


def _chat_body(text: str, **fields: Any) -> dict[str, Any]:
    system = fields.pop("system", None)
    head = [] if system is None else [{"role": "system", "content": system}]
    usage = {"stream_options": {"include_usage": True}} if fields.get("stream") else {}
    return {"messages": [*head, {"role": "user", "content": text}]} | usage | fields


def _chat_delta(heard: Heard, choice: Any) -> None:
    delta = choice["delta"]
    heard.text += delta.get("content") or ""
    heard.reasoning += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls", []):
        if call["index"] == len(heard.calls):
            heard.calls.append((call["id"], call["function"]["name"], ""))
        id_, name, arguments = heard.calls[call["index"]]
        heard.calls[call["index"]] = (id_, name, arguments + call["function"]["arguments"])


def _chat_streamed(events: list[Event]) -> Heard:
    heard = _openai_streamed(_chat_delta, events)
    heard.calls = [(id_, name, json.loads(arguments)) for id_, name, arguments in heard.calls]
    return heard


def _chat_whole(body: Any) -> Heard:
    (choice,) = body["choices"]
    message = choice["message"]
    return Heard(
        message["content"] or "",
        message.get("reasoning_content", ""),
        [
            (it["id"], it["function"]["name"], json.loads(it["function"]["arguments"]))
            for it in message.get("tool_calls", [])
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


def _completion_text(heard: Heard, choice: Any) -> None:
    heard.text += choice["text"]


def _completion_whole(body: Any) -> Heard:
    (choice,) = body["choices"]
    usage = _openai_usage(body["usage"])
    return Heard(choice["text"], finish=choice["finish_reason"], usage=usage)


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
    said = {"role": "user", "content": [{"type": "input_text", "text": text}]}
    return {"input": [*head, said]} | fields


def _responses_whole(body: Any) -> Heard:
    heard = Heard(warnings=body.get("warnings", []))
    for item in body["output"]:
        match item["type"]:
            case "message":
                heard.text += "".join(part["text"] for part in item["content"])
            case "reasoning":
                told = item["summary"] or item["content"]
                heard.reasoning += "".join(part["text"] for part in told)
            case "function_call":
                arguments = json.loads(item["arguments"])
                heard.calls.append((item["call_id"], _spaced_name(item), arguments))
            case "custom_tool_call":
                heard.calls.append((item["call_id"], _spaced_name(item), item["input"]))
    cut = body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["status"] == ("incomplete" if cut else "completed")
    heard.finish = "length" if cut else "tool_calls" if heard.calls else "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    heard.usage = Usage(usage["input_tokens"], cached, usage["output_tokens"])
    return heard


def _spaced_name(item: Any) -> str:
    """The name of what was called, a namespace before a slash."""
    space = item.get("namespace")
    return str(item["name"]) if space is None else f"{space}/{item['name']}"


class _ResponsesReader:
    """Events, held to their order: an item is added, has a part, grows, is done."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.item: Any = None
        self.said = ""
        self.text = ""

    def take(self, data: Any) -> None:
        kind = data["type"]
        if kind == "response.output_item.added":
            assert self.item is None
            self.item, self.said = data["item"], ""
            assert self.item["status"] == "in_progress"
        elif kind.endswith(".delta"):
            self.said += data["delta"]
            if kind == "response.output_text.delta":
                self.text += data["delta"]
        elif kind.endswith("_text.done"):
            assert data["text"] == self.said
        elif kind == "response.function_call_arguments.done":
            assert data["arguments"] == self.said
            assert data["name"] == self.item["name"]
        elif kind == "response.custom_tool_call_input.done":
            assert data["input"] == self.said
        elif kind == "response.output_item.done":
            assert data["item"].keys() == self.item.keys()
            same = self.item.keys() & {"id", "type", "call_id", "namespace", "name"}
            assert all(data["item"][key] == self.item[key] for key in same)
            self.done.append(data["item"])
            self.item = None
        else:
            assert kind.removesuffix(".added").removesuffix(".done").endswith("_part")
            assert data["part"]["text"] == ("" if kind.endswith("added") else self.said)
        if kind.startswith("response.output_item"):
            assert data["output_index"] == len(self.done) - kind.endswith("done")
        else:
            assert (data["output_index"], data["item_id"]) == (len(self.done), self.item["id"])


def _numbered(events: list[Event]) -> list[Any]:
    told = [data for _, data in events]
    assert [name for name, _ in events] == [it["type"] for it in told]
    assert [it["sequence_number"] for it in told] == list(range(len(told)))
    assert [it["type"] for it in told[:2]] == ["response.created", "response.in_progress"]
    return told


def _responses_streamed(events: list[Event]) -> Heard:
    created, _, *told, last = _numbered(events)
    reader = _ResponsesReader()
    for data in told:
        reader.take(data)
    assert reader.item is None
    assert last["type"] == f"response.{last['response']['status']}"
    assert last["response"]["id"] == created["response"]["id"]
    assert last["response"]["output"] == reader.done
    return _responses_whole(last["response"])


def _responses_broken(events: list[Event]) -> Broken:
    _, _, *told, last = _numbered(events)
    reader = _ResponsesReader()
    for data in told:
        reader.take(data)
    assert last["type"] == "error"
    assert isinstance(last["code"], str)
    return Broken(reader.text, last["message"])


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


def _messages_whole(body: Any) -> Heard:
    heard = Heard(finish=FINISHES[body["stop_reason"]], warnings=body.get("warnings", []))
    assert (body["type"], body["role"]) == ("message", "assistant")
    for block in body["content"]:
        match block["type"]:
            case "text":
                heard.text += block["text"]
            case "thinking":
                heard.reasoning += block["thinking"]
            case "tool_use":
                heard.calls.append((block["id"], block["name"], block["input"]))
    heard.usage = _anthropic_usage(body["usage"])
    return heard


class _MessagesReader:
    """Events, held to their order: a block starts, grows and stops before the next."""

    def __init__(self) -> None:
        self.blocks: list[Any] = []
        self.open = False

    def take(self, data: Any) -> None:
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
        return "".join(it["text"] for it in self.blocks if it["type"] == "text")

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
    told = [data for _, data in events if data["type"] != "ping"]
    assert told[0]["type"] == "message_start"
    assert told[0]["message"]["content"] == []
    return told


def _messages_streamed(events: list[Event]) -> Heard:
    start, *told, delta, stop = _named(events)
    assert (delta["type"], stop["type"]) == ("message_delta", "message_stop")
    reader = _MessagesReader()
    for data in told:
        reader.take(data)
    assert not reader.open
    read = _anthropic_usage(start["message"]["usage"])
    usage = _anthropic_usage(delta["usage"])
    assert (read.prompt, read.cached, read.completion) == (usage.prompt, usage.cached, 0)
    ended = {"content": reader.blocks, "usage": delta["usage"], **delta["delta"]}
    warned = {"warnings": delta["warnings"]} if "warnings" in delta else {}
    return _messages_whole(start["message"] | ended | warned)


def _messages_broken(events: list[Event]) -> Broken:
    _, *told, last = _named(events)
    reader = _MessagesReader()
    for data in told:
        reader.take(data)
    return Broken(reader.text, _anthropic_refusal(last))


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
