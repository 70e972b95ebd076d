"""Log-probabilities of tokens, for requests that ask for them.

What the batch computed anyway is read back here, and only for rows that report: a read-back waits
for the device. The values are mlx_lm's: of the logits after the processors (penalties,
bias), before temperature and filters. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_worker.wire.output import TokenChoice, TokenLogprobs

if TYPE_CHECKING:
    from mlx_worker.engine.output.markers import Markers


def read_logprobs(
    markers: Markers, logprobs: mx.array, token: int, count: int, *, is_content: bool = True
) -> TokenLogprobs:
    """Return the chosen token of one row and the `count` likeliest; `logprobs` is (vocabulary,)."""
    best: list[int] = []
    if count:
        unsorted = mx.argpartition(-logprobs, kth=count - 1)[:count]
        best = unsorted[mx.argsort(-logprobs[unsorted])].tolist()  # type: ignore[assignment]
    values: list[float] = logprobs[mx.array([token, *best])].tolist()  # type: ignore[assignment]
    choices = [
        choice_of(markers, token_id, value)
        for token_id, value in zip([token, *best], values, strict=True)
    ]
    return TokenLogprobs(choices[0], choices[1:], is_content)


def choice_of(markers: Markers, token: int, logprob: float) -> TokenChoice:
    """Return a token with its text, its log-probability and the bytes that an answer gets."""
    text, data = markers.text_of(token)
    return TokenChoice(text, logprob, None if data == text.encode() else data)
