"""What each answer of a node must be for a cluster's router and the clients behind the router.

The shapes are written here once more, from what routers and clients read, and share nothing with
the product's own schemas. Every check raises BrokenContract.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec

from tests.sse import DONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.processes import Answer
    from tests.sse import Event

LARGEST_HEALTH: Final = 14_000
"""Bytes of a health report beyond which a router needs a new connection for each check."""

NOT_SERVING: Final = ("initializing", "unhealthy", "offline")
"""The words of a node that answers a health check with 503."""

STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]
Word = Literal["initializing", "healthy", "degraded", "unhealthy", "offline"]


class BrokenContract(AssertionError):
    """An answer is not what the contract promises; says how."""


class Camel(msgspec.Struct, rename="camel", frozen=True):
    """Fields that have camelCase in JSON. What is not named here may be there too."""


class Health(Camel, frozen=True):
    last_check: Milliseconds
    consecutive_failures: Count
    avg_response_time: Milliseconds
    error_rate: Share


class HealthCache(Camel, frozen=True):
    tokens: Count
    system_prompt_hash: Digest
    last_updated: Milliseconds
    warmed: bool


class Metrics(Camel, frozen=True):
    requests_in_flight: Count
    total_requests: Count
    cache_hit_rate: Share
    avg_latency: Milliseconds


class ModelHealth(Camel, frozen=True):
    status: Word
    state: str
    pid: int | None
    health: Health
    cache: HealthCache
    metrics: Metrics
    restarts: Count
    queue_depth: Count
    context_length: int | None


class NodeHealth(Camel, frozen=True):
    status: Word
    health: Health
    cache: HealthCache
    metrics: Metrics
    models: dict[str, ModelHealth]


class NodeCache(Camel, frozen=True):
    tokens: Count
    system_prompt_hash: Digest
    last_updated: Milliseconds
    hit_rate: Share


class Warmed(Camel, frozen=True):
    success: Literal[True]
    hash: Digest
    system_prompt_hash: Digest
    tokens: Count
    last_updated: Milliseconds


class ListedModel(msgspec.Struct, frozen=True):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    object: Literal["model"]
    created: Count
    owned_by: str
    context_length: int | None


class ModelList(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: Annotated[list[ListedModel], msgspec.Meta(min_length=1)]


class ErrorDetail(msgspec.Struct, frozen=True):
    message: Annotated[str, msgspec.Meta(min_length=1)]
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    error: ErrorDetail


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: Count


class ChatUsage(msgspec.Struct, frozen=True):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails


class ResponsesUsage(msgspec.Struct, frozen=True):
    input_tokens: Count
    output_tokens: Count
    total_tokens: Count
    input_tokens_details: PromptDetails


class Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    role: str | None = None


class Choice(msgspec.Struct, frozen=True):
    index: Count
    delta: Delta
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class Chunk(msgspec.Struct, frozen=True):
    id: str
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    choices: list[Choice]
    usage: ChatUsage | None = None


class Said(msgspec.Struct, frozen=True):
    """A whole answer: its text, how the answer ended, and its counts by the names of chats."""

    text: str
    finish: str
    usage: dict[str, Any]


def digest_of(prompt: str) -> str:
    """Return the hash by which nodes name a system prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def _must(so: object, what: str) -> None:
    if not so:
        raise BrokenContract(what)


def _decoded(data: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.MsgspecError as error:
        raise BrokenContract(f"no {shape.__name__}: {error} in {data[:2000]!r}") from error


def _converted(value: object, shape: type[T]) -> T:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise BrokenContract(f"no {shape.__name__}: {error} in {value}") from error


# --- what a router polls ------------------------------------------------------------------


def models_of(answer: Answer) -> list[str] | None:
    """Return the names of the models; None if the node wants to be dropped."""
    if answer.status == 503:
        refusal(answer)
        return None
    _must(answer.status == 200, f"/v1/models is {answer.status}")
    return [model.id for model in _decoded(answer.body, ModelList).data]


def health_of(answer: Answer) -> NodeHealth:
    """Return the health report of a cluster path, which is 503 for a node that cannot serve."""
    _must(answer.status in (200, 503), f"health is {answer.status}")
    _must(len(answer.body) < LARGEST_HEALTH, f"health has {len(answer.body)} bytes")
    report = _decoded(answer.body, NodeHealth)
    _must(answer.status == 200 or report.status in NOT_SERVING, f"a 503 that is {report.status}")
    return report


def cache_of(answer: Answer) -> NodeCache:
    """Return what is said of the prompt cache."""
    _must(answer.status == 200, f"cache is {answer.status}")
    return _decoded(answer.body, NodeCache)


def warmed_of(answer: Answer, prompt: str) -> Warmed | None:
    """Return what a warm-up has read; None if the node refused for now."""
    if answer.status in (429, 503):
        refusal(answer)
        return None
    _must(answer.status == 200, f"a warm-up is {answer.status}: {answer.body[:300]!r}")
    warmed = _decoded(answer.body, Warmed)
    _must(warmed.system_prompt_hash == warmed.hash == digest_of(prompt), f"hash: {warmed}")
    _must(warmed.tokens > 0 or not prompt, f"no tokens of {prompt!r}")
    return warmed


def refusal(answer: Answer) -> None:
    """See that a refusal says when to come again, in OpenAI's words."""
    _must(answer.status in (429, 503), f"status {answer.status}: {answer.body[:300]!r}")
    _decoded(answer.body, ErrorBody)
    after = {name.lower(): value for name, value in answer.headers.items()}.get("retry-after", "")
    _must(after.isdecimal() and int(after) > 0, f"Retry-After is {after!r}")


# --- what clients read --------------------------------------------------------------------


def check_headers(headers: Mapping[str, str], session: str) -> None:
    """See that a stream began with what clients and proxies need."""
    seen = {name.lower(): value for name, value in headers.items()}
    for name, value in STREAM_HEADERS.items():
        _must(seen.get(name.lower()) == value, f"{name} is {seen.get(name.lower())!r}")
    _must(seen.get("x-session-id") == session, f"another session than {session}: {seen}")
    _must(seen.get("x-cache-hit") in ("true", "false"), f"X-Cache-Hit in {seen}")
    _must(seen.get("x-request-id"), f"no X-Request-Id in {seen}")


def chat_of(events: Sequence[Event], model: str) -> Said:
    """Return the answer of a whole chat stream that was asked for its usage."""
    _must(events and events[-1].data == DONE, f"no [DONE] after {events[-1:]}")
    _must(all(event.name is None for event in events), "an event of a chat has a name")
    chunks = [_converted(event.data, Chunk) for event in events[:-1]]
    _must(len(chunks) > 1, f"only {chunks}")
    _must(len({(chunk.id, chunk.created) for chunk in chunks}) == 1, "chunks differ in their id")
    _must(all(chunk.model == model for chunk in chunks), f"another model than {model}")
    *said, last = chunks
    _must(not last.choices and last.usage, f"the last chunk has no usage: {last}")
    _must(all(len(chunk.choices) == 1 and not chunk.usage for chunk in said), f"in {said}")
    choices = [chunk.choices[0] for chunk in said]
    _must(choices[0].delta == Delta("", "assistant"), f"the first chunk is {choices[0]}")
    finishes = [choice.finish_reason for choice in choices if choice.finish_reason]
    _must(len(finishes) == 1 and choices[-1].finish_reason, f"ends: {finishes}")
    pieces = [choice.delta.content for choice in choices[:-1]]
    _must(None not in pieces, f"a chunk without content in {choices}")
    assert last.usage is not None
    usage = last.usage
    _must(usage.prompt_tokens + usage.completion_tokens == usage.total_tokens, f"sum of {usage}")
    text = "".join(choice.delta.content or "" for choice in choices)
    return Said(text, finishes[0], msgspec.to_builtins(usage))


def response_of(events: Sequence[Event]) -> Said:
    """Return the answer of a whole stream of a response, with its counts by the names of chats."""
    _must(all(event.name == event.data["type"] for event in events), "an event's name")
    numbers = [event.data["sequence_number"] for event in events]
    _must(numbers == [*range(len(numbers))], f"numbers of events: {numbers}")
    kinds = [event.data["type"] for event in events]
    _must(kinds, "a stream without events")
    _must(kinds[0] == "response.created", f"the first event is {kinds[0]}")
    ends = ("response.completed", "response.incomplete")
    _must([kind for kind in kinds if kind in ends] == kinds[-1:], f"ends in {kinds}")
    text = _response_text([event.data for event in events])
    usage = _converted(events[-1].data["response"]["usage"], ResponsesUsage)
    _must(usage.input_tokens + usage.output_tokens == usage.total_tokens, f"sum of {usage}")
    by_chat_names = ChatUsage(
        usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.input_tokens_details
    )
    finish = "stop" if kinds[-1] == ends[0] else "length"
    return Said(text, finish, msgspec.to_builtins(by_chat_names))


def _response_text(events: Sequence[dict[str, Any]]) -> str:
    """Return the text of all deltas, each of which has to be inside of its item."""
    opened: dict[int, str] = {}
    whole = ""
    for event in events:
        match event["type"], event.get("output_index", -1):
            case "response.output_item.added", at:
                _must(at not in opened, f"item {at} twice")
                opened[at] = ""
            case "response.output_text.delta", at:
                _must(at in opened, f"a delta before item {at}")
                opened[at] += event["delta"]
            case "response.output_item.done", at:
                content = event["item"].get("content") or []
                said = "".join(part["text"] for part in content if part["type"] == "output_text")
                _must(opened.pop(at, None) == said, f"item {at} is {said!r}, its deltas are not")
                whole += said
    _must(not opened, f"items without an end: {opened}")
    return whole
