"""How far rounding moves the logits of a token in wide passes, and in passes of several rows.

A kernel may choose the order of its sums by the shape of its input. Batches have to live with that,
and their answers are as right as others. Drafts are held to the same: rows draft where wide passes
move no logit, or move logits no further than passes of several rows do. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from mlx_worker.engine.batch_support import logit_count

if TYPE_CHECKING:
    from collections.abc import Sequence

READ: Final = 16
"""Tokens of the prompt."""
DECODED: Final = 8
"""Tokens behind the prompt, whose logits are compared."""
STRIDE: Final = 7919
"""Tokens are a prime number apart: all are others."""
ROWS: Final = 4
SAME: Final = 4.0
"""How many times as far as passes of several rows wide ones may move logits: it is one try each."""


def rounding_because(model: Any, layers: Sequence[Any], widths: Sequence[int]) -> str:
    """Return why wide passes may not be used, or "" if they round as passes of several rows do.

    `layers` are those of an empty cache, and are not changed.
    """
    count = logit_count(model)
    tokens = [place * STRIDE % count for place in range(1, READ + DECODED + 1)]
    alone = _decoded(model, layers, tokens, rows=1)
    wide = max(
        _moved(alone[:, :width], _wide(model, layers, tokens, rows, width))
        for rows, width in [*((1, width) for width in widths if width > 1), (ROWS, max(widths))]
    )
    if wide == 0:
        return ""
    batch = _moved(alone, _decoded(model, layers, tokens, ROWS))
    if wide <= SAME * batch:
        return ""
    return (
        f"rounding moves logits by {wide:.1g} in a forward pass of several tokens, "
        f"and by {batch:.1g} in one of several rows"
    )


def _read(model: Any, layers: Sequence[Any], tokens: list[int], rows: int) -> list[Any]:
    """Return the KV of the prompt, the same for each row."""
    cache = [layer.merge([layer] * rows) for layer in layers]
    model(mx.array([tokens[:READ]] * rows), cache=cache)
    mx.eval([layer.state for layer in cache])
    return cache


def _decoded(model: Any, layers: Sequence[Any], tokens: list[int], rows: int) -> mx.array:
    """Return the logits (rows, tokens, vocabulary) of passes of one token each."""
    cache = _read(model, layers, tokens, rows)
    steps = []
    for token in tokens[READ:]:
        steps.append(model(mx.array([[token]] * rows), cache=cache))
        mx.eval(steps[-1])
    return mx.concatenate(steps, axis=1)


def _wide(model: Any, layers: Sequence[Any], tokens: list[int], rows: int, width: int) -> mx.array:
    """Return the logits (rows, width, vocabulary) of one pass."""
    cache = _read(model, layers, tokens, rows)
    computed: mx.array = model(mx.array([tokens[READ : READ + width]] * rows), cache=cache)
    return computed


def _moved(expected: mx.array, computed: mx.array) -> float:
    """Return by how much logits differ at most; infinite ones that are equal do not."""
    difference = mx.where(expected == computed, 0, mx.abs(expected - computed))
    most: float = difference.astype(mx.float32).max().tolist()  # type: ignore[assignment]
    return most
