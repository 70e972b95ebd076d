"""Log-probabilities of tokens, as OpenAI's dialects tell them. [front]"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.wire.output import TokenChoice, TokenLogprobs


def told_logprobs(logprobs: Iterable[TokenLogprobs]) -> list[dict[str, Any]]:
    """Return tokens with their log-probabilities, and with the likeliest others."""
    return [
        _choice(it.chosen) | {"top_logprobs": [_choice(other) for other in it.likeliest]}
        for it in logprobs
    ]


def _choice(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": choice.logprob, "bytes": list(choice.added)}


class ContentLogprobs:
    """The tokens of an answer's content, each given out with the text that it began.

    A token's text may come later than the token: it can be held back, or be part of a character.
    """

    def __init__(self) -> None:
        self._waiting: deque[TokenLogprobs] = deque()
        self._ahead = 0

    def add(self, logprobs: Iterable[TokenLogprobs]) -> None:
        """Take tokens in; those of reasoning and calls are not told."""
        self._waiting.extend(it for it in logprobs if it.is_content)

    def of(self, text: str) -> list[dict[str, Any]]:
        """Return the tokens that begin in this text, which is the next of the content."""
        if not self._waiting:
            self._ahead = 0
            return []
        self._ahead -= len(text.encode("utf-8", "replace"))
        begun: list[TokenLogprobs] = []
        while self._waiting and self._ahead < 0:
            begun.append(self._waiting.popleft())
            self._ahead += len(begun[-1].chosen.added)
        return told_logprobs(begun)

    def rest(self) -> list[dict[str, Any]]:
        """Return the tokens that have not been given out; the answer has ended."""
        rest = told_logprobs(self._waiting)
        self._waiting.clear()
        return rest
