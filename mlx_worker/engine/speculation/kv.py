"""The KV of a batch after a wide pass: each row loses the tokens that were not right.

mlx_lm's batch ends in the same column for all rows, and pads rows on the left. So all rows are cut
by the number that all have to lose, and the KV of a row that loses more moves to the right. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Sequence


def cut(kv: Sequence[Any], count: int) -> None:
    """Cut the last tokens from the KV of one row, and give their memory up."""
    for layer in kv:
        layer.trim(count)
        layer.keys = layer.keys[..., : layer.offset, :]
        layer.values = layer.values[..., : layer.offset, :]


def drop_last(cache: Sequence[Any], counts: Sequence[int]) -> None:
    """Drop the last tokens of each row from the KV of a batch; `counts` has a number for each."""
    least = min(counts)
    if least:
        for layer in cache:
            layer.trim(least)
    moves = [(row, count - least) for row, count in enumerate(counts) if count > least]
    if not moves:
        return
    shifts = mx.array([count - least for count in counts])
    for layer in cache:
        for row, shift in moves:
            layer.keys = _moved(layer.keys, row, shift, layer.size())
            layer.values = _moved(layer.values, row, shift, layer.size())
        layer.offset = layer.offset - shifts
        layer.left_padding = layer.left_padding + shifts


def _moved(array: mx.array, row: int, shift: int, end: int) -> mx.array:
    """Return the array with the columns of a row before `end` moved to the right.

    The copy lets mlx change the array in place: nothing else refers to its memory by then.
    """
    array[row, :, shift:end] = mx.contiguous(array[row, :, : end - shift])
    return array
