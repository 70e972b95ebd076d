"""What `POST /v1/messages` answers: one message, or the events that make it.

An answer is blocks in the order they were said: thinking, text, tool use. Streamed or not, they are
made by the same hand. Beyond Anthropic's fields: `warnings`, why a call is in a text. [front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from mlx_worker.api.dialects.errors import anthropic_error
from mlx_worker.api.dialects.sse_event import event
from mlx_worker.json_output import embedded, encode
from mlx_worker.wire.output import InvalidToolCall, Notice, ReasoningText, ToolCall, visible_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.api.dialects.base import Call, Usage, Whole
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta
    from mlx_worker.wire.output import Span

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class _Kind(NamedTuple):
    """How a block of words is called, where its words are, and how more of them come."""

    type: str
    key: str
    delta: str
    more: dict[str, Any]


_TEXT = _Kind("text", "text", "text_delta", {})
# A signature would prove to Anthropic's servers whose thoughts these are.
_THINKING = _Kind("thinking", "thinking", "thinking_delta", {"signature": ""})


class MessagesReply:
    """One message being written."""

    def __init__(self, call: Call, model: str, _created: int, _fingerprint: str) -> None:
        self._head = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._blocks: list[dict[str, Any]] = []
        self._kind: _Kind | None = None
        self._words: list[str] = []
        self._warnings = [*call.warnings]

    def opening(self, usage: Usage) -> bytes:
        """The message, of which nothing is said yet."""
        message = self._head | {"content": [], **_unended(), "usage": _whole_usage(usage)}
        return event({"type": "message_start", "message": message})

    def sign(self) -> bytes:
        """A ping."""
        return event({"type": "ping"})

    def piece(self, piece: OutputDelta, _choice: int) -> bytes:
        """Events of blocks that begin, go on and end."""
        return b"".join(event(told) for span in piece.all_spans for told in self._take(span))

    def closing(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """The end of the last block, and of the message."""
        (ending,) = endings
        delta = {"type": "message_delta", "delta": _ended(ending), "usage": _usage(usage)}
        told = [*self._close(), delta | self._warned(), {"type": "message_stop"}]
        return b"".join(map(event, told))

    def broken(self, error: WorkerError) -> bytes:
        """An error event: client libraries raise it."""
        return b"event: error\ndata: " + anthropic_error(error) + b"\n\n"

    def whole(self, choices: Sequence[Whole], usage: Usage) -> bytes:
        """The message."""
        ((piece, ending),) = choices
        for span in piece.all_spans:
            for _ in self._take(span):
                pass
        for _ in self._close():
            pass
        said = {"content": self._blocks, **_ended(ending), "usage": _whole_usage(usage)}
        return encode(self._head | said | self._warned())

    # --- blocks ---

    def _take(self, span: Span) -> Iterator[dict[str, Any]]:
        match span:
            case ToolCall():
                yield from self._close()
                yield from self._call(span)
            case ReasoningText():
                yield from self._say(_THINKING, span.text)
            case Notice():
                self._warnings.append(span.problem)
            case _:
                if isinstance(span, InvalidToolCall):
                    self._warnings.append(span.problem)
                yield from self._say(_TEXT, visible_text(span))

    def _say(self, kind: _Kind, text: str) -> Iterator[dict[str, Any]]:
        if self._kind is not kind:
            yield from self._close()
            self._kind = kind
            yield self._start(_block(kind, ""))
        self._words.append(text)
        yield self._delta({"type": kind.delta, kind.key: text})

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._kind is not None:
            yield self._stop(_block(self._kind, "".join(self._words)))
            self._kind, self._words = None, []

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        block = {"type": "tool_use", "id": call.id, "name": call.name}
        yield self._start(block | {"input": {}})
        yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        yield self._stop(block | {"input": embedded(call.arguments)})

    # --- events ---

    def _start(self, block: dict[str, Any]) -> dict[str, Any]:
        index = len(self._blocks)
        return {"type": "content_block_start", "index": index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self._blocks), "delta": delta}

    def _stop(self, block: dict[str, Any]) -> dict[str, Any]:
        self._blocks.append(block)
        return {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _warned(self) -> dict[str, Any]:
        return {"warnings": self._warnings} if self._warnings else {}


def _block(kind: _Kind, words: str) -> dict[str, Any]:
    return {"type": kind.type, kind.key: words} | kind.more


def _unended() -> dict[str, Any]:
    return {"stop_reason": None, "stop_sequence": None}


def _ended(ending: FinishInfo) -> dict[str, Any]:
    reason = "model_context_window_exceeded" if ending.context_full else _REASONS[ending.finish]
    if ending.finish == "stop" and ending.stop_string:
        return {"stop_reason": "stop_sequence", "stop_sequence": ending.stop_string}
    return {"stop_reason": reason, "stop_sequence": None}


def _whole_usage(usage: Usage) -> dict[str, Any]:
    """Return the usage of a message, which has fields that the end of a stream does not have."""
    created = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    return _usage(usage) | {"cache_creation": created, "service_tier": "standard"}


def _usage(usage: Usage) -> dict[str, Any]:
    """Return the tokens as Anthropic counts them: the prompt is the sum of the three input ones.

    `input_tokens` had to be read. Nothing is paid for to be cached, so no tokens are created there.
    """
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "server_tool_use": None,
    }
