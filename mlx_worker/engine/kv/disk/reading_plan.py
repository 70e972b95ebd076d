"""Which records on disk would serve a prompt, and what reading them costs.

[child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from mlx_worker.kv_disk.chains import find_chain
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.kv_disk.files.records import Address, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.kv.disk.tier import DiskTier

MAX_NAMED: Final = 64
"""Chunks of a long chain that are named to the front, besides the window and the state."""


class Wanted(NamedTuple):
    """A record to be read: that of tokens `start` to `stop`, of this number of bytes."""

    address: Address
    start: int
    stop: int
    nbytes: int


@dataclass(frozen=True)
class ReadPlan:
    """The first `length` tokens of a prompt, of which `resident` are in memory.

    `records` are those of the tokens from `start` on, what comes before is taken from memory.
    `nbytes` are the bytes of the KV of all `length` tokens. `recorded` are the seconds that
    computing the tokens from `start` on took. `is_trial`: records are under suspicion.
    """

    length: int
    resident: int
    start: int
    records: tuple[Wanted, ...]
    nbytes: int
    recorded: float
    is_trial: bool

    @property
    def gain(self) -> int:
        """Return the tokens that need not be computed."""
        return self.length - self.resident

    @property
    def read_bytes(self) -> int:
        """Return the bytes to be read."""
        return sum(record.nbytes for record in self.records)


def find_plan(
    tier: DiskTier, tokens: Sequence[int], resident: int, *, apart: bool
) -> ReadPlan | None:
    """Return what the disk has of `tokens` beyond the `resident` ones, None if nothing.

    Records under suspicion count only where they may be read `apart` from others.
    """
    chain = find_chain(tier.store, tier.identity, tokens, tier.kinds, apart=apart)
    if chain is None or chain.length <= resident:
        return None
    start = resident // CHUNK_TOKENS * CHUNK_TOKENS if Kind.DELTA in tier.kinds else 0
    records = []
    nbytes = 0
    recorded = 0.0
    for place, address in enumerate(chain.addresses):
        size, seconds = tier.store.cost_of(address)
        nbytes += size
        begin, end = 0, chain.length
        if address.kind is Kind.DELTA:
            begin = place * CHUNK_TOKENS
            end = min(begin + CHUNK_TOKENS, chain.length)
            if begin < start:
                continue
        records.append(Wanted(address, begin, end, size))
        if address.kind is min(tier.kinds):  # the time of a chunk is not counted twice
            recorded += seconds
    return ReadPlan(
        chain.length,
        resident,
        start,
        tuple(records),
        nbytes,
        recorded,
        is_trial=not all(tier.store.contains(address) for address in chain.addresses),
    )


def names_of(records: Sequence[Wanted]) -> tuple[bytes, ...]:
    """Return the names of the records as the front keeps them: a byte of the kind, then the key."""
    chunks = [record.address for record in records if record.address.kind is Kind.DELTA]
    ends = [record.address for record in records if record.address.kind is not Kind.DELTA]
    return tuple(bytes([kind]) + key for kind, key in (*chunks[-MAX_NAMED:], *ends))


def addresses_of(names: Sequence[bytes]) -> list[Address]:
    """Return the addresses that such names mean; names of no kind are skipped."""
    kinds = {int(kind): kind for kind in Kind}
    return [Address(kinds[name[0]], name[1:]) for name in names if name and name[0] in kinds]
