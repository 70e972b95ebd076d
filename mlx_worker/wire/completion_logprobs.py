"""Log-probabilities in the form of completions: parallel lists.

The child writes those of a prompt, the front those of an answer; both make one list.
[both]
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.output import TokenChoice, TokenLogprobs

LOGPROB_LISTS: Final = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class Offsets:
    """Find where each token of one choice begins, in characters of the choice's text.

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


def logprob_lists(logprobs: Sequence[TokenLogprobs], offsets: Offsets) -> dict[str, list[Any]]:
    """Return the lists by the names in `LOGPROB_LISTS`. Offsets are in characters of the text."""
    return {
        "tokens": [token.chosen.text for token in logprobs],
        "token_logprobs": [token.chosen.logprob for token in logprobs],
        "top_logprobs": [_by_text(token.likeliest) for token in logprobs],
        "text_offset": [offsets.passed(token.chosen.added) for token in logprobs],
    }


def _by_text(likeliest: Sequence[TokenChoice]) -> dict[str, float]:
    """Return log-probabilities by text; parts of characters that look alike by their bytes too."""
    values: dict[str, float] = {}
    for choice in likeliest:
        name = choice.text
        if name in values:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in choice.added)
        values.setdefault(name, choice.logprob)
    return values
