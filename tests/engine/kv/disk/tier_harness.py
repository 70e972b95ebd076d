"""An engine of a real tiny model with its tier on disk, and time in hand."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.engine import NO_LADDER, Engine
from mlx_worker.engine.kv.disk.arrays import capture
from mlx_worker.engine.kv.disk.forms import forms_of
from mlx_worker.engine.kv.disk.tier import DiskTier
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prompt import Prompt
from mlx_worker.kv_disk.chains import find_chain
from mlx_worker.wire.messages import DiskCache, Started
from mlx_worker.wire.output import StepOutput
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.engine.kv.disk.open_tiers import opened
from tests.engine.kv.disk.restored import restore
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.engine.kv.disk.entry_writer import EntryWriter
    from mlx_worker.engine.kv.prompt_cache import CacheEntry
    from mlx_worker.engine.speculation.ladder import Ladder
    from mlx_worker.kv_disk.files.payload import Payload
    from mlx_worker.kv_disk.files.records import Kind

PATIENCE = 60.0
VERSIONS = {"mlx": "0.32.4", "mlx-lm": "0.32.2 (0)"}
GIB = 1 << 30


def some_tokens(count: int, seed: int) -> list[int]:
    """Token ids that each seed has others of."""
    return random.Random(seed).choices(range(10, 200), k=count)


class Clock:
    """The monotonic clock of a tier; each look takes `step` seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.step = 0.0

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


class Seat:
    """One model with an engine and a tier; `open` again is what a new process does."""

    def __init__(self, name: str, folder: Path, ladder: Ladder = NO_LADDER) -> None:
        self.folder = folder
        self.ladder = ladder
        self.model, self.tokenizer, _ = read_model(make(name, folder / name))
        self.clock = Clock()
        self._ids = 0
        self.open()

    def open(self, cache_bytes: int = GIB) -> None:
        tier = DiskTier.open(
            DiskCache(str(self.folder / "kv"), GIB, 1 << 40, 0),
            self.model,
            "weights",
            VERSIONS,
            cache_bytes=cache_bytes,
            monotonic=self.clock,
        )
        assert tier is not None
        self.tier = opened(tier)
        self.engine = Engine(
            self.model,
            self.tokenizer,
            context_length=8192,
            max_concurrency=8,
            cache_bytes=cache_bytes,
            ladder=self.ladder,
            disk=tier,
        )

    @property
    def writer(self) -> EntryWriter:
        assert self.engine.entry_writer is not None
        return self.engine.entry_writer

    @property
    def entries(self) -> list[CacheEntry]:
        return list(self.engine.cache._entries.values())

    def admit(
        self, tokens: list[int], *, system: int = 0, answer: int = 4, in_session: bool = False
    ) -> int:
        self._ids += 1
        request = ChatRequest([], Sampling(1), answer)
        prompt = Prompt(tokens, system, "system" if system else "")
        self.engine.admit(self._ids, request, prompt, in_session=in_session)
        return self._ids

    def chat(
        self, tokens: list[int], *, system: int = 0, answer: int = 4, in_session: bool = False
    ) -> None:
        """Have a prompt read and answered to its end."""
        self.admit(tokens, system=system, answer=answer, in_session=in_session)
        while self.engine.active:
            self.engine.step()

    def answer(self, tokens: list[int]) -> tuple[list[int], int]:
        """Return the answer to a prompt, and how many tokens of the prompt came from disk."""
        started = []
        answer: list[int] = []
        self._ids += 1
        request = ChatRequest([], Sampling(1), 24)
        started.append(
            self.engine.admit(self._ids, request, Prompt(tokens, 0, ""), in_session=True)
        )
        while self.engine.active:
            for message in self.engine.step():
                if isinstance(message, Started):
                    started.append(message)
                elif isinstance(message, StepOutput):
                    answer += message.rows[0].tokens
        (begun,) = [message for message in started if isinstance(message, Started)]
        return answer, begun.disk_tokens

    def idle(self, seconds: float = 0.0) -> None:
        """Let time pass without any request."""
        self.clock.seconds += seconds
        while (wait := self.writer.wait_seconds) is not None and wait < 1:
            if wait:
                self.tier.writer.drain(PATIENCE)
            self.writer.advance(is_idle=True)
        assert self.tier.writer.drain(PATIENCE)

    def on_disk(self, tokens: list[int] | tuple[int, ...]) -> int:
        """Return how many of these tokens the disk serves."""
        chain = find_chain(self.tier.store, self.tier.identity, list(tokens), self.tier.kinds)
        return chain.length if chain else 0

    def from_disk(self, tokens: tuple[int, ...]) -> list[tuple[Kind, Payload]]:
        """Return the records that serve all of these tokens."""
        chain = find_chain(self.tier.store, self.tier.identity, tokens, self.tier.kinds)
        assert chain is not None
        assert chain.length == len(tokens)
        found = [(address.kind, self.tier.store.get(address)) for address in chain.addresses]
        return [(kind, payload) for kind, payload in found if payload is not None]

    def restored(self, tokens: tuple[int, ...]) -> list[Any]:
        cache = self.tier.new_cache()
        restore(cache, forms_of(self.model), self.from_disk(tokens), len(tokens))
        return cache

    def bits(self, cache: list[Any], tokens: int) -> list[list[tuple[Any, ...]]]:
        """Return everything that a cache has of its tokens, as bytes."""
        return [
            [
                (layer.family, layer.numbers, array and (array.dtype, array.shape, array.data))
                for layer in capture(cache, kind, 0, tokens).payload()
                for array in layer.arrays
            ]
            for kind in sorted(self.tier.kinds)
        ]

    def close(self) -> None:
        self.tier.close(PATIENCE)

    def die(self) -> None:
        """End as a process does that is killed: nothing is saved, the kernel closes the folder."""
        assert self.tier.writer.drain(PATIENCE)
        self.tier.store._folder.release()
