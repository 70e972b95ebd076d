"""A model of an agent's family whose KV and turns are on disk, in one process after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.kv.disk.reading_choice import ReadSpeed
from mlx_worker.engine.kv.disk.tier import DiskTier
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.kv_disk.files.records import Kind
from mlx_worker.wire.messages import DiskCache
from tests.agent_bench import CONTEXT, Bench
from tests.engine.kv.disk.open_tiers import opened
from tests.engine.kv.disk.tier_harness import PATIENCE, VERSIONS, Clock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.kv_disk.files.records import Address
    from mlx_worker.wire.request import ChatRequest
    from tests.agent_templates import AgentFamily

CACHE_BYTES = 1 << 30
DISK_BYTES = 256 << 20


class DiskBench(Bench):
    """A bench whose engine keeps its KV on disk: `begin` is what a new process does."""

    in_session = True
    grain = CHUNK_TOKENS

    def __init__(self, family: AgentFamily, folder: Path, *, remembers: bool = True) -> None:
        super().__init__(family, folder / "model", remembers=remembers)
        self.kv = folder / "kv"
        self.clock = Clock()
        self.asked: list[ChatRequest] = []
        self.prompts: list[Prompt] = []
        self.begin()

    def begin(self, weights: str = "weights", *, with_turns: bool = True) -> None:
        """Open the folder with a new engine, in which nothing is in memory."""
        tier = DiskTier.open(
            DiskCache(str(self.kv), DISK_BYTES, 1 << 40, 0),
            self.model,
            weights,
            VERSIONS,
            cache_bytes=CACHE_BYTES,
            monotonic=self.clock,
        )
        assert tier is not None
        self.tier = opened(tier)
        if not with_turns:
            tier.take_turns()
        self.engine = Engine(
            self.model,
            self.tokenizer,
            context_length=CONTEXT,
            max_concurrency=16,
            cache_bytes=CACHE_BYTES,
            remember_turns=self.remembers,
            disk=tier,
        )
        assert self.engine.disk_reading is not None
        self.engine.disk_reading._choice.speed = ReadSpeed(float("inf"))  # faster than any model

    def prompt(
        self, request: ChatRequest, given: Sequence[object] | None = None
    ) -> tuple[ChatRequest, Prompt]:
        answered, prompt = super().prompt(request, given)
        self.asked.append(request)
        self.prompts.append(prompt)
        return answered, prompt

    def idle(self, seconds: float = 0.0) -> None:
        """Let time pass without any request."""
        self.clock.seconds += seconds
        writer = self.engine.entry_writer
        assert writer is not None
        while (wait := writer.wait_seconds) is not None and wait < 1:
            if wait:
                self.tier.writer.drain(PATIENCE)
            writer.advance(is_idle=True)
        assert self.tier.writer.drain(PATIENCE)

    def leave(self) -> None:
        """End as a process does that is told to."""
        assert self.engine.entry_writer is not None
        self.engine.entry_writer.finish(PATIENCE)
        self.tier.close(PATIENCE)

    def die(self) -> None:
        """End as a process does that is killed: nothing is saved, the kernel closes the folder."""
        assert self.tier.writer.drain(PATIENCE)
        self.tier.store._folder.release()

    def restart(self) -> None:
        """End, and begin again."""
        self.leave()
        self.begin()

    @property
    def turns_on_disk(self) -> set[Address]:
        """Return the addresses of the turns in the store."""
        found: set[Address] = set()

        def add(address: Address, _: object) -> bool:
            found.add(address)
            return True

        list(self.tier.store.load_all(Kind.TURN, add))
        return found
