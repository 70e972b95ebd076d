"""Format log-probabilities of tokens as OpenAI's dialects have them.

[front]
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.wire.output import TokenChoice, TokenLogprobs


def format_logprobs(logprobs: Iterable[TokenLogprobs]) -> list[dict[str, Any]]:
    """Return tokens with their log-probabilities, and with the likeliest alternatives."""
    return [
        _format_token(token.chosen)
        | {"top_logprobs": [_format_token(other) for other in token.likeliest]}
        for token in logprobs
    ]


def _format_token(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": choice.logprob, "bytes": list(choice.added)}


class ContentLogprobs:
    """The tokens of an answer's content, each returned with the text that it begins.

    A token's text may come later than the token: the text can be held back, or be part of a
    character.
    """

    def __init__(self) -> None:
        self._waiting: deque[TokenLogprobs] = deque()
        self._bytes_ahead = 0

    def add(self, logprobs: Iterable[TokenLogprobs]) -> None:
        """Add tokens; those of reasoning and calls are not reported."""
        self._waiting.extend(token for token in logprobs if token.is_content)

    def take_for(self, text: str) -> list[dict[str, Any]]:
        """Return the tokens that begin in this text, which is the next text of the content."""
        if not self._waiting:
            self._bytes_ahead = 0
            return []
        self._bytes_ahead -= len(text.encode("utf-8", "replace"))
        begun: list[TokenLogprobs] = []
        while self._waiting and self._bytes_ahead < 0:
            begun.append(self._waiting.popleft())
            self._bytes_ahead += len(begun[-1].chosen.added)
        return format_logprobs(begun)

    def take_rest(self) -> list[dict[str, Any]]:
        """Return the remaining tokens, after the answer has ended."""
        rest = format_logprobs(self._waiting)
        self._waiting.clear()
        return rest
