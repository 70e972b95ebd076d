"""Write the answers of `POST /v1/messages`: one message, or the events that make it.

An answer is blocks in the order of the output: thinking, text, tool use. Streamed or not, the same
code makes them. Beyond Anthropic's fields: `warnings`, why a call is in a text; `loop`, if the
answer was ended because it repeats itself.

[front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlx_worker.api.dialects.base import loop_field, sse_event
from mlx_worker.api.dialects.errors import anthropic_error
from mlx_worker.json_output import embedded, encode
from mlx_worker.wire.output import InvalidToolCall, Notice, ReasoningText, ToolCall, visible_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.api.dialects.base import (
        FinishedChoice,
        GenerationRequest,
        ResponseInfo,
        Usage,
    )
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta
    from mlx_worker.wire.output import Span

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class _TextBlockKind(NamedTuple):
    """The names in a block of text: its type, the key of its text, its deltas, other keys."""

    type: str
    key: str
    delta: str
    other_keys: dict[str, Any]


_TEXT = _TextBlockKind("text", "text", "text_delta", {})
# A signature would prove to Anthropic's servers which model wrote the thinking.
_THINKING = _TextBlockKind("thinking", "thinking", "thinking_delta", {"signature": ""})


class MessagesWriter:
    """Writes one message."""

    def __init__(self, request: GenerationRequest, info: ResponseInfo) -> None:
        self._head = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": info.model,
        }
        self._blocks: list[dict[str, Any]] = []
        self._open_kind: _TextBlockKind | None = None
        self._texts: list[str] = []
        self._warnings = [*request.warnings]

    def start(self, usage: Usage) -> bytes:
        """Return the start of the message, without content.

        The end of the message repeats the usage, and clients take the counts from there.
        """
        message = self._head | {"content": [], **_NO_STOP, "usage": _full_usage(usage)}
        return sse_event({"type": "message_start", "message": message})

    def identify(self, _fingerprint: str) -> None:
        """Do nothing: messages name no process."""

    def keepalive(self) -> bytes:
        """Return a ping."""
        return sse_event({"type": "ping"})

    def delta(self, output: OutputDelta, _choice: int) -> bytes:
        """Return events of blocks that start, continue and stop."""
        return b"".join(sse_event(event) for span in output.spans for event in self._add_span(span))

    def finish(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """Return the end of the last block, and of the message."""
        (ending,) = endings
        delta = {"type": "message_delta", "delta": _stop_fields(ending), "usage": _usage(usage)}
        delta |= loop_field(ending) | self._warning_field()
        events = [*self._close_block(), delta, {"type": "message_stop"}]
        return b"".join(map(sse_event, events))

    def error(self, error: WorkerError) -> bytes:
        """Return an error event, which client libraries raise."""
        return b"event: error\ndata: " + anthropic_error(error) + b"\n\n"

    def full_response(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """Return the message."""
        ((output, ending),) = choices
        for span in output.spans:
            for _ in self._add_span(span):
                pass
        for _ in self._close_block():
            pass
        answer = {"content": self._blocks, **_stop_fields(ending), "usage": _full_usage(usage)}
        return encode(self._head | answer | loop_field(ending) | self._warning_field())

    # --- blocks ---

    def _add_span(self, span: Span) -> Iterator[dict[str, Any]]:
        match span:
            case ToolCall():
                yield from self._close_block()
                yield from self._add_call(span)
            case ReasoningText():
                yield from self._add_text(_THINKING, span.text)
            case Notice():
                self._warnings.append(span.problem)
            case _:
                if isinstance(span, InvalidToolCall):
                    self._warnings.append(span.problem)
                yield from self._add_text(_TEXT, visible_text(span))

    def _add_text(self, kind: _TextBlockKind, text: str) -> Iterator[dict[str, Any]]:
        if self._open_kind is not kind:
            yield from self._close_block()
            self._open_kind = kind
            yield self._block_start(_block(kind, ""))
        self._texts.append(text)
        yield self._block_delta({"type": kind.delta, kind.key: text})

    def _close_block(self) -> Iterator[dict[str, Any]]:
        if self._open_kind is not None:
            yield self._block_stop(_block(self._open_kind, "".join(self._texts)))
            self._open_kind, self._texts = None, []

    def _add_call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        block = {"type": "tool_use", "id": call.id, "name": call.name}
        yield self._block_start(block | {"input": {}})
        yield self._block_delta({"type": "input_json_delta", "partial_json": call.arguments})
        yield self._block_stop(block | {"input": embedded(call.arguments)})

    # --- events ---

    def _block_start(self, block: dict[str, Any]) -> dict[str, Any]:
        index = len(self._blocks)
        return {"type": "content_block_start", "index": index, "content_block": block}

    def _block_delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self._blocks), "delta": delta}

    def _block_stop(self, block: dict[str, Any]) -> dict[str, Any]:
        self._blocks.append(block)
        return {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _warning_field(self) -> dict[str, Any]:
        return {"warnings": self._warnings} if self._warnings else {}


def _block(kind: _TextBlockKind, text: str) -> dict[str, Any]:
    return {"type": kind.type, kind.key: text} | kind.other_keys


_NO_STOP: Final[dict[str, Any]] = {"stop_reason": None, "stop_sequence": None}


def _stop_fields(ending: FinishInfo) -> dict[str, Any]:
    reason = (
        "model_context_window_exceeded" if ending.context_full else _STOP_REASONS[ending.finish]
    )
    if ending.finish == "stop" and ending.stop_string:
        return {"stop_reason": "stop_sequence", "stop_sequence": ending.stop_string}
    return {"stop_reason": reason, "stop_sequence": None}


def _full_usage(usage: Usage) -> dict[str, Any]:
    """Return the usage of a message, with fields that the end of a stream does not have."""
    created = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    return _usage(usage) | {"cache_creation": created, "service_tier": "standard"}


def _usage(usage: Usage) -> dict[str, Any]:
    """Return the tokens as Anthropic counts them: the prompt is the sum of three counts.

    `input_tokens` had to be read. No caller pays for caching, so no cache tokens are created.
    """
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "server_tool_use": None,
        **usage.session_field,
    }
