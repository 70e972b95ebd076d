"""A digest of what all ranks have in common: the rows of the batch, and the handles of KV.

[child]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_lm.generate import BatchGenerator

LAST = 8
"""Tokens of each row that are compared, beside their number."""


def digest_of(batch: BatchGenerator, handles: Iterable[int]) -> bytes:
    """Return a digest of the rows of a batch, and of these handles."""
    reading, decoding = batch._prompt_batch, batch._generation_batch  # noqa: SLF001
    facts: list[Any] = [
        [_rows(reading), _rows(decoding)],
        [sequence[0] for sequence in batch._unprocessed_sequences],  # noqa: SLF001
        sorted(handles),
    ]
    return hashlib.blake2b(msgspec.msgpack.encode(facts), digest_size=16).digest()


def _rows(batch: Any) -> list[Any]:
    return [
        [uid, len(tokens), tokens[-LAST:]]
        for uid, tokens in zip(batch.uids, batch.tokens, strict=True)
    ]
