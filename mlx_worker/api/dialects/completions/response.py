"""Write the answers of `POST /v1/completions`: one completion object, or its chunks.

Choices are counted prompt by prompt, `n` each. Beyond OpenAI's fields: `seed`, in the completion
and in a stream's first chunks, which makes the same answer again; `loop`, in a choice that was
ended because it repeats itself.

[front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from mlx_worker.api.dialects.base import loop_field
from mlx_worker.api.dialects.chat.response import NO_USAGE, format_usage
from mlx_worker.api.dialects.errors import openai_error
from mlx_worker.json_output import encode, joined_list
from mlx_worker.wire.completion_logprobs import LOGPROB_LISTS, Offsets, logprob_lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.api.dialects.base import (
        FinishedChoice,
        GenerationRequest,
        ResponseInfo,
        Usage,
    )
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta, Scores


class CompletionWriter:
    """Writes one completion."""

    def __init__(self, request: GenerationRequest, info: ResponseInfo) -> None:
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": info.created,
            "model": info.model,
            "system_fingerprint": info.fingerprint,
        }
        self._seed = request.seed
        self._include_usage = request.include_usage
        self._no_usage: dict[str, Any] = NO_USAGE if request.include_usage else {}
        echoes = [text for text in info.echoes for _ in range(request.n)]
        self._echoes = echoes or [""] * request.choice_count
        self._offsets = [Offsets(len(text)) for text in self._echoes]
        scoring = request.chats[0].prompt_scoring
        self._echoes_scores = scoring is not None and scoring.echoed is not None

    def start(self, _usage: Usage) -> bytes:
        """Return a chunk for each choice, with its echo; `delta` writes an echo with scores."""
        echoes = [""] * len(self._echoes) if self._echoes_scores else self._echoes
        return b"".join(
            self._chunk([_format_choice(i, text)], seed=self._seed) for i, text in enumerate(echoes)
        )

    def identify(self, fingerprint: str) -> None:
        """Have all further chunks name this process."""
        self._head["system_fingerprint"] = fingerprint

    def keepalive(self) -> bytes:
        """Return a chunk with an empty text."""
        return self._chunk([_format_choice(0, "")])

    def delta(self, output: OutputDelta, choice: int) -> bytes:
        """Return a chunk of text, after the echo if the output has the scores of the echo."""
        echo = self._echoes[choice] if output.scores is not None else ""
        return self._chunk(
            [_format_choice(choice, echo + output.text, self._logprobs(output, choice))]
        )

    def finish(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """Return the finish chunks, the usage chunk if it was asked for, and [DONE]."""
        end = b"".join(
            self._chunk([_format_choice(i, "", finish=ending.finish) | loop_field(ending)])
            for i, ending in enumerate(endings)
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
            _format_choice(
                i, self._echoes[i] + output.text, self._logprobs(output, i), ending.finish
            )
            | _prompt_logprobs(output)
            | loop_field(ending)
            for i, (output, ending) in enumerate(choices)
        ]
        body = self._head | {"choices": formatted, "usage": format_usage(usage), "seed": self._seed}
        return encode(body)

    def _logprobs(self, output: OutputDelta, choice: int) -> dict[str, Any] | None:
        scores = output.scores if self._echoes_scores else None
        if scores is None and not output.logprobs:
            return None
        return _with_prompt_scores(scores, logprob_lists(output.logprobs, self._offsets[choice]))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        body = self._head | {"choices": choices} | self._no_usage | more
        return b"data: " + encode(body) + b"\n\n"


def _format_choice(
    index: int, text: str, logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _prompt_logprobs(output: OutputDelta) -> dict[str, Any]:
    """Return the prompt's scores as vLLM lists them, if they were asked for in this form."""
    if output.scores is None or not output.scores.listed:
        return {}
    return {"prompt_logprobs": joined_list(output.scores.listed)}


def _with_prompt_scores(scores: Scores | None, logprobs: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the lists of the prompt's tokens followed by the answer's."""
    if scores is None:
        return logprobs
    return {
        name: joined_list(of_prompt, encode(logprobs[name])[1:-1])
        for name, of_prompt in zip(LOGPROB_LISTS, scores.echoed, strict=True)
    }
