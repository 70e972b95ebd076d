"""What `POST /v1/completions` answers: one completion object, or its chunks.

Choices are counted prompt by prompt, `n` each. Beyond OpenAI's fields: `seed`, in the completion
and in a stream's first chunks, which makes the same answer again. [front]
"""

from __future__ import annotations

import codecs
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.api.chat_reply import NO_USAGE, usage_of
from mlx_worker.api.dialect import COMMENT
from mlx_worker.api.error_bodies import openai_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.api.completions import CompletionCall
    from mlx_worker.api.dialect import Usage, Whole
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.generation import Ending, Piece
    from mlx_worker.wire.messages import Choice, TokenLogprobs


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
        self._offsets = [_Offsets(len(text)) for text in self._echoes]

    def opening(self, _usage: Usage) -> bytes:
        """A chunk a choice, with what is echoed."""
        return b"".join(
            self._chunk([_choice(i, text)], seed=self._seed) for i, text in enumerate(self._echoes)
        )

    def sign(self) -> bytes:
        """A comment."""
        return COMMENT

    def piece(self, piece: Piece, choice: int) -> bytes:
        """A chunk of text."""
        return self._chunk([_choice(choice, piece.text, self._told(piece, choice))])

    def closing(self, endings: Sequence[Ending], usage: Usage) -> bytes:
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
            for i, (piece, ending) in enumerate(choices)
        ]
        body = self._head | {"choices": said, "usage": usage_of(usage), "seed": self._seed}
        return msgspec.json.encode(body)

    def _told(self, piece: Piece, choice: int) -> dict[str, Any] | None:
        if not piece.logprobs:
            return None
        return _logprobs(piece.logprobs, self._offsets[choice])

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        body = self._head | {"choices": choices} | self._no_usage | more
        return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


class _Offsets:
    """Where each token of one choice begins, in characters of its text.

    A token inside a character begins where that character does.
    """

    def __init__(self, first: int) -> None:
        self._at = first
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def passed(self, data: bytes) -> int:
        """Return where the next token begins, and pass it: `data` is what it adds."""
        begin = self._at
        self._at += len(self._decoder.decode(data))
        return begin


def _logprobs(told: list[TokenLogprobs], offsets: _Offsets) -> dict[str, Any]:
    """Return what this dialect tells: a list a fact. Offsets are in characters of the answer."""
    return {
        "tokens": [token.chosen.text for token in told],
        "token_logprobs": [token.chosen.logprob for token in told],
        "top_logprobs": [_by_text(token.likeliest) for token in told],
        "text_offset": [offsets.passed(token.chosen.added) for token in told],
    }


def _by_text(likeliest: Sequence[Choice]) -> dict[str, float]:
    """Return log-probabilities by text; parts of characters that look alike by their bytes too."""
    values: dict[str, float] = {}
    for choice in likeliest:
        name = choice.text
        if name in values:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in choice.added)
        values.setdefault(name, choice.logprob)
    return values
