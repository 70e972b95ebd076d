"""What `POST /v1/completions` answers: one completion object, or its chunks.

Choices are counted prompt by prompt, `n` each. Beyond OpenAI's fields: `seed`, in the completion
and in a stream's first chunks, which makes the same answer again. [front]
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from mlx_worker.api.dialects.base import COMMENT
from mlx_worker.api.dialects.chat.response import NO_USAGE, usage_of
from mlx_worker.api.dialects.errors import openai_error
from mlx_worker.json_output import encode, joined_list
from mlx_worker.wire.completion_logprobs import LOGPROB_LISTS, Offsets, logprob_lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.api.dialects.base import Usage, Whole
    from mlx_worker.api.dialects.completions.request import CompletionCall
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta, Scores


class CompletionReply:
    """One completion being written. `echoes` has the text that a choice begins with."""

    def __init__(
        self,
        echoes: Sequence[str],
        call: CompletionCall,
        model: str,
        created: int,
        fingerprint: str,
    ) -> None:
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._seed = call.seed
        self._include_usage = call.include_usage
        self._no_usage: dict[str, Any] = NO_USAGE if call.include_usage else {}
        self._echoes = [text for text in echoes for _ in range(call.n)] or [""] * call.wide
        self._offsets = [Offsets(len(text)) for text in self._echoes]
        scoring = call.chats[0].prompt_scoring
        self._echoes_scores = scoring is not None and scoring.echoed is not None

    def opening(self, _usage: Usage) -> bytes:
        """Return a chunk a choice, with the echo; an echo with scores comes later, in `piece`."""
        echoes = [""] * len(self._echoes) if self._echoes_scores else self._echoes
        return b"".join(
            self._chunk([_choice(i, text)], seed=self._seed) for i, text in enumerate(echoes)
        )

    def sign(self) -> bytes:
        """A comment."""
        return COMMENT

    def piece(self, piece: OutputDelta, choice: int) -> bytes:
        """Return a chunk of text, behind the echo where the scores of the echo have come."""
        echo = self._echoes[choice] if piece.scores is not None else ""
        return self._chunk([_choice(choice, echo + piece.text, self._told(piece, choice))])

    def closing(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """The finish chunks, the usage chunk where it was asked for, and [DONE]."""
        end = b"".join(
            self._chunk([_choice(i, "", finish=ending.finish)]) for i, ending in enumerate(endings)
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
            _choice(i, self._echoes[i] + piece.text, self._told(piece, i), ending.finish)
            | _listed(piece)
            for i, (piece, ending) in enumerate(choices)
        ]
        body = self._head | {"choices": said, "usage": usage_of(usage), "seed": self._seed}
        return encode(body)

    def _told(self, piece: OutputDelta, choice: int) -> dict[str, Any] | None:
        scores = piece.scores if self._echoes_scores else None
        if scores is None and not piece.logprobs:
            return None
        return _merged(scores, logprob_lists(piece.logprobs, self._offsets[choice]))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        body = self._head | {"choices": choices} | self._no_usage | more
        return b"data: " + encode(body) + b"\n\n"


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _listed(piece: OutputDelta) -> dict[str, Any]:
    """Return the prompt's scores as vLLM lists them, where they were asked for in this form."""
    if piece.scores is None or not piece.scores.listed:
        return {}
    return {"prompt_logprobs": joined_list(piece.scores.listed)}


def _merged(scores: Scores | None, told: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the lists of the prompt's tokens followed by the answer's."""
    if scores is None:
        return told
    return {
        name: joined_list(of_prompt, encode(told[name])[1:-1])
        for name, of_prompt in zip(LOGPROB_LISTS, scores.echoed, strict=True)
    }
