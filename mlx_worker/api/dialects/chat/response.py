"""What `POST /v1/chat/completions` answers: one completion object, or its chunks.

Beyond OpenAI's fields: `reasoning_content` and `reasoning`, because both spellings are in use;
`seed`, in the completion and in a stream's first chunks, which makes the same answer again; and
`warnings`, in a choice whose model wrote a call that is none or whose tools were left out, there
and in the choice's first chunk. [front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api.dialects.base import COMMENT
from mlx_worker.api.dialects.errors import openai_error
from mlx_worker.api.dialects.token_logprobs import told_logprobs
from mlx_worker.json_output import encode, encode_text, joined_list
from mlx_worker.wire.output import InvalidToolCall, Notice, ReasoningText, ToolCall, visible_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.api.dialects.base import Call, Usage, Whole
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta
    from mlx_worker.wire.output import FinishReason, Span

NO_USAGE: Final[dict[str, Any]] = {"usage": None}
"""What all chunks but the last say of the usage, where a stream's caller asked for it."""


class ChatReply:
    """One chat completion being written; a stream's chunks differ only in their choice."""

    def __init__(self, call: Call, model: str, created: int, fingerprint: str) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._model = model
        self._created = created
        self._fingerprint = fingerprint
        self._seed = call.seed
        self._n = call.n
        self._include_usage = call.include_usage
        self._no_usage: dict[str, Any] = NO_USAGE if call.include_usage else {}
        self._warnings = call.warnings
        self._calls = [0] * call.n
        # All but the text is the same in every chunk of a choice: encode it once.
        chunks = (self._chunk([_delta(choice, {"content": "?"})]) for choice in range(call.n))
        self._around = [(it[0], it[2]) for it in (chunk.rpartition(b'"?"') for chunk in chunks)]

    def opening(self, _usage: Usage) -> bytes:
        """The role chunks."""
        role = {"role": "assistant", "content": ""}
        warned = {"warnings": self._warnings} if self._warnings else {}
        choices = (_delta(it, role) | warned for it in range(self._n))
        return b"".join(self._chunk([choice], seed=self._seed) for choice in choices)

    def sign(self) -> bytes:
        """A comment."""
        return COMMENT

    def piece(self, piece: OutputDelta, choice: int) -> bytes:
        """Chunks of content, reasoning and calls, in their order."""
        if not piece.spans and not piece.logprobs:
            before, after = self._around[choice]
            return before + encode_text(piece.text) + after
        deltas = [delta for span in piece.spans for delta in self._deltas(span, choice)]
        if piece.text or not deltas:
            deltas.append(_delta(choice, {"content": piece.text}))
        if piece.logprobs:
            deltas[-1]["logprobs"] = {"content": told_logprobs(piece.logprobs)}
        return b"".join(self._chunk([delta]) for delta in deltas)

    def closing(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """The finish chunks, the usage chunk where it was asked for, and [DONE]."""
        end = b"".join(
            self._chunk([{"index": choice, "delta": {}, "finish_reason": ending.finish}])
            for choice, ending in enumerate(endings)
        )
        if self._include_usage:
            end += self._chunk([], usage=usage_of(usage))
        return end + b"data: [DONE]\n\n"

    def broken(self, error: WorkerError) -> bytes:
        """An error event: client libraries raise it."""
        return b"data: " + openai_error(error) + b"\n\n"

    def whole(self, choices: Sequence[Whole], usage: Usage) -> bytes:
        """The completion object."""
        said = [
            _whole_choice(i, piece, end.finish, self._warnings)
            for i, (piece, end) in enumerate(choices)
        ]
        body = self._object("chat.completion", said)
        scores = choices[0][0].scores
        listed = {} if scores is None else {"prompt_logprobs": joined_list(scores.listed)}
        return encode(body | {"usage": usage_of(usage), "seed": self._seed} | listed)

    def _deltas(self, span: Span, choice: int) -> Iterator[dict[str, Any]]:
        match span:
            case str():
                yield _delta(choice, {"content": span})
            case ReasoningText():
                yield _delta(choice, _reasoning(span.text))
            case InvalidToolCall():
                yield _delta(choice, {"content": span.text}) | {"warnings": [span.problem]}
            case Notice():
                yield _delta(choice, {"content": ""}) | {"warnings": [span.problem]}
            case ToolCall():
                index = self._calls[choice]
                self._calls[choice] += 1
                named = {"index": index} | _call(span, arguments="")
                yield _delta(choice, {"tool_calls": [named]})
                rest = {"index": index, "function": {"arguments": span.arguments}}
                yield _delta(choice, {"tool_calls": [rest]})

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        body = self._object("chat.completion.chunk", choices)
        return b"data: " + encode(body | self._no_usage | more) + b"\n\n"

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }


def _delta(choice: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": choice, "delta": delta, "finish_reason": None}


def _reasoning(text: str) -> dict[str, Any]:
    return {"reasoning_content": text, "reasoning": text}


def _call(call: ToolCall, arguments: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _whole_choice(
    index: int, piece: OutputDelta, finish: FinishReason, warnings: list[str]
) -> dict[str, Any]:
    calls = [_call(it, it.arguments) for it in piece.spans if isinstance(it, ToolCall)]
    thought = "".join(it.text for it in piece.spans if isinstance(it, ReasoningText))
    noted = [it.problem for it in piece.spans if isinstance(it, InvalidToolCall | Notice)]
    warned = [*warnings, *noted]
    content = "".join(map(visible_text, piece.all_spans))
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    if thought:
        message |= _reasoning(thought)
    choice: dict[str, Any] = {
        "index": index,
        "message": message,
        "logprobs": {"content": told_logprobs(piece.logprobs)} if piece.logprobs else None,
        "finish_reason": finish,
    }
    return choice | ({"warnings": warned} if warned else {})


def usage_of(usage: Usage) -> dict[str, Any]:
    """As chat completions and completions tell it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
