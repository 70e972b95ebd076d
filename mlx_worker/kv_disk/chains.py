"""The longest prefix of a prompt that the records on disk serve, and which records these are.

A prefix is served by the chain of its chunks, if the model has layers that can be cut, and by the
window and the state at its end, if the model has such layers. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS, next_key
from mlx_worker.kv_disk.files.records import Address, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.kv_disk.files.keys import KvIdentity
    from mlx_worker.kv_disk.store import DiskStore

MAX_STOPS: Final = 64
"""Ends of entries within one chunk that are tried."""


@dataclass(frozen=True)
class Chain:
    """A prefix of `length` tokens, and the addresses of its records in the order of tokens."""

    length: int
    addresses: tuple[Address, ...]


def find_chain(
    store: DiskStore,
    identity: KvIdentity,
    tokens: Sequence[int],
    kinds: frozenset[Kind],
    *,
    apart: bool = False,
) -> Chain | None:
    """Return the longest prefix of `tokens` that is on disk, None where there is none.

    `kinds` are the kinds of records that the model's layers need. Records under suspicion count
    only where they may be read `apart` from others.
    """
    contains = partial(store.contains, apart=apart)
    ends = kinds - {Kind.DELTA}
    chunks: list[Address] = []
    best: Chain | None = None
    parent = identity.seed
    for start in range(0, len(tokens), CHUNK_TOKENS):
        whole: bytes | None = None
        for stop in store.stops_after(parent)[:MAX_STOPS]:
            if not start < stop <= min(len(tokens), start + CHUNK_TOKENS):
                continue
            key = next_key(parent, tokens[start:stop])
            delta = Address(Kind.DELTA, key)
            if Kind.DELTA in kinds and not contains(delta):
                continue
            if stop - start == CHUNK_TOKENS:
                whole = key
            last = [Address(kind, key) for kind in sorted(ends)]
            if (best is None or stop > best.length) and all(map(contains, last)):
                own = [delta] if Kind.DELTA in kinds else []
                best = Chain(stop, (*chunks, *own, *last))
        if Kind.DELTA in kinds:
            if whole is None:
                break
            chunks.append(Address(Kind.DELTA, whole))
            parent = whole
        else:
            if len(tokens) < start + CHUNK_TOKENS:
                break
            parent = next_key(parent, tokens[start : start + CHUNK_TOKENS])
    return best
