"""How far rounding moves the logits of a token in wide passes, and in passes of several rows.

A kernel may choose the order of its sums by the shape of its input. Batches have to live with that,
and their answers are as right as others. Drafts do not: how many tokens a pass has depends on the
time that passes take, so a request that is alone could have two answers. By itself a node drafts
where wide passes move no logit. Its operator may accept what batches have to live with. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from mlx_worker.engine.batch_support import logit_count

if TYPE_CHECKING:
    from collections.abc import Sequence

READ: Final = 4
"""Tokens of the prompt."""
DECODED: Final = 8
"""Tokens behind the prompt, whose logits are compared."""
STRIDE: Final = 7919
"""Tokens are a prime number apart: all are others."""
ROWS: Final = 8
SAME: Final = 8.0
"""How many times as far as passes of several rows wide ones may move logits: it is one try each."""


def rounding_because(
    model: Any, layers: Sequence[Any], widths: Sequence[int], *, as_batches: bool = False
) -> str:
    """Return why wide passes may not be used, or "" if they move no logit.

    With `as_batches` they may move logits as far as passes of several rows do. `layers` are those
    of an empty cache, and are not changed.
    """
    count = logit_count(model)
    tokens = [place * STRIDE % count for place in range(1, READ + DECODED + 1)]
    cache = [layer.merge([layer]) for layer in layers]
    _logits(model, cache, tokens[:READ], READ)
    alone = _logits(model, cache, tokens[READ:], 1)
    _cut(cache, DECODED)
    rows = [type(layer).merge([layer.extract(0)] * ROWS) for layer in cache]

    def moved(cache: Sequence[Any], count: int, width: int) -> float:
        """Return by how much the logits of the first tokens move in passes of this width."""
        computed = _logits(model, cache, tokens[READ : READ + count], width)
        _cut(cache, count)
        return _difference(alone[:, :count], computed)

    wide = max(moved(cache, width, width) for width in widths if width > 1)
    wide = max(wide, moved(rows, DECODED, DECODED))
    if wide == 0:
        return ""
    batch = moved(rows, DECODED // 2, 1)
    is_alike = wide <= SAME * batch
    if is_alike and as_batches:
        return ""
    return (
        f"rounding moves logits by {wide:.1g} in a forward pass of several tokens, "
        f"and by {batch:.1g} in one of several rows"
        + ('; speculation = "on" accepts that' if is_alike else "")
    )


def _logits(model: Any, cache: Sequence[Any], tokens: list[int], width: int) -> mx.array:
    """Return the logits (rows, tokens, vocabulary) of passes that read `width` tokens each.

    Each row reads the same tokens.
    """
    rows = cache[0].offset.size
    passes: list[mx.array] = []
    for start in range(0, len(tokens), width):
        passes.append(model(mx.array([tokens[start : start + width]] * rows), cache=cache))
        mx.eval(passes[-1])
    return mx.concatenate(passes, axis=1)


def _cut(cache: Sequence[Any], count: int) -> None:
    """Drop the last tokens of each row."""
    for layer in cache:
        layer.trim(count)


def _difference(expected: mx.array, computed: mx.array) -> float:
    """Return by how much logits differ at most; infinite ones that are equal do not."""
    difference = mx.where(expected == computed, 0, mx.abs(expected - computed))
    most: float = difference.astype(mx.float32).max().tolist()  # type: ignore[assignment]
    return most
