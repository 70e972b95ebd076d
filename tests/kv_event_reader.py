"""A subscriber of KV events as others write it: by vLLM's published format alone.

Nothing of the product is used here. The structs are those of vLLM 0.29 (`EventBatch` is an array,
events are maps), and the steps those of its example: live messages, and a replay of what a gap in
their numbers has missed.
"""

from __future__ import annotations

import time
from functools import reduce
from operator import xor
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import zmq

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE: Final = 30.0
"""Seconds: far beyond what anything takes; its passing is a failure, not a measure."""

END: Final = (-1).to_bytes(8, "big", signed=True)


class EventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


class KVCacheEvent(msgspec.Struct, omit_defaults=True, gc=False, tag=True):
    pass


class BlockStored(KVCacheEvent):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None


class BlockRemoved(KVCacheEvent):
    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(KVCacheEvent):
    pass


class Blocks:
    """The blocks that some batches make: of each its parent and its own tokens, by its hash."""

    def __init__(self) -> None:
        self.of_hash: dict[int, tuple[int | None, tuple[int, ...]]] = {}
        self.last = -1
        self.clears = 0
        self._decoder = msgspec.msgpack.Decoder(EventBatch)

    def apply(self, sequence: int, payload: bytes) -> None:
        """Apply one batch, in the order of the numbers."""
        batch = self._decoder.decode(payload)
        assert sequence > self.last
        assert batch.data_parallel_rank == 0
        for event in batch.events:
            match event:
                case AllBlocksCleared():
                    self.of_hash.clear()
                    self.clears += 1
                case BlockRemoved():
                    for gone in event.block_hashes:
                        del self.of_hash[gone]  # an unknown one is an error
                case BlockStored():
                    self._store(event)
        self.last = sequence

    def _store(self, event: BlockStored) -> None:
        size, parent = event.block_size, event.parent_block_hash
        assert len(event.token_ids) == size * len(event.block_hashes)
        for at, own in enumerate(event.block_hashes):
            assert parent is None or parent in self.of_hash
            assert own not in self.of_hash
            tokens = event.token_ids[at * size : (at + 1) * size]
            self.of_hash[own] = (parent, tuple(tokens))
            parent = own

    @property
    def digest(self) -> str:
        return f"{reduce(xor, self.of_hash, 0):016x}"

    def prefixes(self) -> set[tuple[int, ...]]:
        """All sequences of tokens whose KV exists, in whole blocks."""
        return {self._prefix(own) for own in self.of_hash}

    def _prefix(self, own: int) -> tuple[int, ...]:
        parent, tokens = self.of_hash[own]
        return tokens if parent is None else self._prefix(parent) + tokens

    def resident(self, tokens: list[int]) -> int:
        """The length of the longest known prefix, in whole blocks: what a router would ask."""
        known = self.prefixes()
        lengths = (len(prefix) for prefix in known if tuple(tokens[: len(prefix)]) == prefix)
        return max(lengths, default=0)


class Subscriber:
    """A SUB socket beside a DEALER socket for replays, and the blocks that they make.

    `waiting` bounds the live messages that wait here.
    """

    def __init__(
        self, endpoint: str, replay: str | None = None, topic: str = "", waiting: int = 1000
    ) -> None:
        self.blocks = Blocks()
        self.replays = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._live = self._context.socket(zmq.SUB)
        self._live.set_hwm(waiting)
        self._live.subscribe(topic)
        self._live.connect(endpoint)
        self._replay = self._context.socket(zmq.DEALER)
        self._has_replay = replay is not None
        if replay is not None:
            self._replay.connect(replay)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def ask_from(self, start: int) -> list[tuple[int, bytes]]:
        """Ask for a replay, and return its batches without applying them."""
        self.replays += 1
        self._replay.send_multipart([b"", start.to_bytes(8, "big")])
        batches: list[tuple[int, bytes]] = []
        while True:
            assert self._replay.poll(int(DEADLINE * 1000)), "no end of the replay"
            empty, number, payload = self._replay.recv_multipart()
            assert empty == b""
            if number == END:
                assert payload == b""
                return batches
            batches.append((int.from_bytes(number, "big"), payload))

    def catch_up(self) -> None:
        """Apply all batches that were missed."""
        for sequence, payload in self.ask_from(self.blocks.last + 1):
            self.blocks.apply(sequence, payload)

    def live(self, timeout: float = DEADLINE) -> tuple[int, bytes] | None:
        """Return the next live message, without applying it; None if there is none."""
        if not self._live.poll(int(timeout * 1000)):
            return None
        _, number, payload = self._live.recv_multipart()
        return int.from_bytes(number, "big"), payload

    def receive(self, timeout: float = DEADLINE) -> bool:
        """Apply the next live message, and before it what a gap has missed."""
        message = self.live(timeout)
        if message is None:
            return False
        sequence, payload = message
        if sequence > self.blocks.last + 1:
            self.catch_up()
        if sequence > self.blocks.last:
            self.blocks.apply(sequence, payload)
        return True

    def await_clear(self, known: int) -> None:
        """Receive until more than the `known` clears were: blocks may be stored after them."""
        end = time.monotonic() + DEADLINE
        while self.blocks.clears <= known:
            assert time.monotonic() < end, (self.blocks.last, len(self.blocks.of_hash))
            self.receive(0.2)

    def agrees(self, report: dict[str, Any]) -> bool:
        """Return True if the blocks are exactly those that the node has reported."""
        blocks = self.blocks
        ours = {
            "sequence": blocks.last,
            "blocks": len(blocks.of_hash),
            "digest": blocks.digest,
        }
        return ours == {name: report[name] for name in ours}

    def follow(self, report: Callable[[], dict[str, Any]], blocks: int | None = None) -> None:
        """Receive until the node's report agrees; and until there are `blocks` of them."""
        end = time.monotonic() + DEADLINE
        while True:
            said = report()
            if self.agrees(said) and blocks in (None, len(self.blocks.of_hash)):
                return
            assert time.monotonic() < end, (said, self.blocks.last, len(self.blocks.of_hash))
            if not self.receive(0.2) and self._has_replay:
                self.catch_up()  # what came before the subscription did
