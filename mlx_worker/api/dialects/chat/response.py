"""Write the answers of `POST /v1/chat/completions`: one completion object, or its chunks.

Beyond OpenAI's fields: `reasoning_content` and `reasoning`, because both spellings are in use;
`seed`, in the completion and in a stream's first chunks, which makes the same answer again; and
`warnings`, in a choice with a malformed call or without some of its tools, there and in the
choice's first chunk; `loop`, in a choice that was ended because it repeats itself.

[front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api.dialects.base import loop_field
from mlx_worker.api.dialects.errors import openai_error
from mlx_worker.api.dialects.token_logprobs import format_logprobs
from mlx_worker.json_output import encode, encode_text, joined_list
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
    from mlx_worker.wire.output import FinishReason, Span

NO_USAGE: Final[dict[str, Any]] = {"usage": None}
"""The usage in all chunks but the last, if a stream's caller asked for the usage."""


class ChatWriter:
    """Writes one chat completion; a stream's chunks differ only in their choice."""

    def __init__(self, request: GenerationRequest, info: ResponseInfo) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._info = info
        self._seed = request.seed
        self._n = request.n
        self._include_usage = request.include_usage
        self._no_usage: dict[str, Any] = NO_USAGE if request.include_usage else {}
        self._warnings = request.warnings
        self._call_counts = [0] * request.n
        self._fingerprint = info.fingerprint
        self._around_text: list[tuple[bytes, bytes]] = []
        if info.fingerprint is not None:
            self.identify(info.fingerprint)

    def start(self, _usage: Usage) -> bytes:
        """Return the role chunks."""
        role = {"role": "assistant", "content": ""}
        warnings = {"warnings": self._warnings} if self._warnings else {}
        choices = (_delta(choice, role) | warnings for choice in range(self._n))
        return b"".join(self._chunk([choice], seed=self._seed) for choice in choices)

    def identify(self, fingerprint: str) -> None:
        """Have all further chunks name this process."""
        self._fingerprint = fingerprint
        # All but the text is the same in every chunk of a choice: encode it once.
        chunks = (self._chunk([_delta(choice, {"content": "?"})]) for choice in range(self._n))
        parts = (chunk.rpartition(b'"?"') for chunk in chunks)
        self._around_text = [(before, after) for before, _, after in parts]

    def keepalive(self) -> bytes:
        """Return a chunk with an empty delta."""
        return self._chunk([_delta(0, {})])

    def delta(self, output: OutputDelta, choice: int) -> bytes:
        """Return chunks of content, reasoning and calls, in their order."""
        spans = output.spans
        if len(spans) == 1 and isinstance(text := spans[0], str) and not output.logprobs:
            before, after = self._around_text[choice]  # nearly always: one token's text
            return before + encode_text(text) + after
        deltas = [delta for span in spans for delta in self._deltas(span, choice)]
        if not deltas:
            deltas.append(_delta(choice, {"content": ""}))
        if output.logprobs:
            deltas[-1]["logprobs"] = {"content": format_logprobs(output.logprobs)}
        return b"".join(self._chunk([delta]) for delta in deltas)

    def finish(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """Return the finish chunks, the usage chunk if it was asked for, and [DONE]."""
        end = b"".join(
            self._chunk([_finish(choice, ending)]) for choice, ending in enumerate(endings)
        )
        if self._include_usage:
            end += self._chunk([], usage=format_usage(usage))
        return end + b"data: [DONE]\n\n"

    def error(self, error: WorkerError) -> bytes:
        """Return an error event, which client libraries raise."""
        return b"data: " + openai_error(error) + b"\n\n"

    def full_response(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """Return the completion object."""
        formatted = [
            _format_choice(i, output, ending.finish, self._warnings) | loop_field(ending)
            for i, (output, ending) in enumerate(choices)
        ]
        body = self._object("chat.completion", formatted)
        scores = choices[0][0].scores
        scored = {} if scores is None else {"prompt_logprobs": joined_list(scores.listed)}
        return encode(body | {"usage": format_usage(usage), "seed": self._seed} | scored)

    def _deltas(self, span: Span, choice: int) -> Iterator[dict[str, Any]]:
        match span:
            case str():
                yield _delta(choice, {"content": span})
            case ReasoningText():
                yield _delta(choice, _reasoning_fields(span.text))
            case InvalidToolCall():
                yield _delta(choice, {"content": span.text}) | {"warnings": [span.problem]}
            case Notice():
                yield _delta(choice, {"content": ""}) | {"warnings": [span.problem]}
            case ToolCall():
                index = self._call_counts[choice]
                self._call_counts[choice] += 1
                call = {"index": index} | _format_call(span, arguments="")
                yield _delta(choice, {"tool_calls": [call]})
                rest = {"index": index, "function": {"arguments": span.arguments}}
                yield _delta(choice, {"tool_calls": [rest]})

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        body = self._object("chat.completion.chunk", choices)
        return b"data: " + encode(body | self._no_usage | more) + b"\n\n"

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._info.created,
            "model": self._info.model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }


def _delta(choice: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": choice, "delta": delta, "finish_reason": None}


def _finish(choice: int, ending: FinishInfo) -> dict[str, Any]:
    return {"index": choice, "delta": {}, "finish_reason": ending.finish} | loop_field(ending)


def _reasoning_fields(text: str) -> dict[str, Any]:
    return {"reasoning_content": text, "reasoning": text}


def _format_call(call: ToolCall, arguments: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _format_choice(
    index: int, output: OutputDelta, finish: FinishReason, warnings: list[str]
) -> dict[str, Any]:
    spans = output.spans
    calls = [_format_call(span, span.arguments) for span in spans if isinstance(span, ToolCall)]
    reasoning = "".join(span.text for span in spans if isinstance(span, ReasoningText))
    problems = [span.problem for span in spans if isinstance(span, InvalidToolCall | Notice)]
    warnings = [*warnings, *problems]
    content = "".join(map(visible_text, output.spans))
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    if reasoning:
        message |= _reasoning_fields(reasoning)
    choice: dict[str, Any] = {
        "index": index,
        "message": message,
        "logprobs": {"content": format_logprobs(output.logprobs)} if output.logprobs else None,
        "finish_reason": finish,
    }
    return choice | ({"warnings": warnings} if warnings else {})


def format_usage(usage: Usage) -> dict[str, Any]:
    """Return the usage in the form of chat completions and completions."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, **usage.session_field},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "accepted_prediction_tokens": usage.accepted_prediction,
            "rejected_prediction_tokens": usage.rejected_prediction,
        },
    }
