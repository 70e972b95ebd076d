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


def free_columns(cache: Sequence[Any]) -> int:
    """Return how many tokens of each row fit into the KV of a batch before the KV grows."""
    columns: int = cache[0].keys.shape[2] - cache[0].size()
    return columns


def close_gap(cache: Sequence[Any], longest: int) -> None:
    """Drop the columns that are padding in every row; `longest` is the tokens of the longest row.

    Such padding comes where the longest row accepts fewer tokens than another one. Its memory stays
    a part of the KV, for tokens that come: without it the KV would grow.
    """
    gap = cache[0].size() - longest
    if gap <= 0:
        return
    for layer in cache:
        keys, values, offset, left_padding, size = layer.state
        keys, values = mx.roll(keys, -gap, 2), mx.roll(values, -gap, 2)
        layer.state = keys, values, offset, left_padding - gap, size - gap


def _moved(array: mx.array, row: int, shift: int, end: int) -> mx.array:
    """Return the array with the columns of a row before `end` moved to the right.

    The copy lets mlx change the array in place: nothing else refers to its memory by then.
    """
    array[row, :, shift:end] = mx.contiguous(array[row, :, : end - shift])
    return array
