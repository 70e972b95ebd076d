"""Engines of a tiny model that follow each other over one folder, and a disk in the test's hand."""

from __future__ import annotations

import random
import threading
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.kv.disk.arrays import kinds_of
from mlx_worker.engine.kv.disk.identity import identity_of
from mlx_worker.engine.kv.disk.reading_choice import ReadSpeed
from mlx_worker.engine.kv.disk.tier import DiskTier
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prompt import Prompt
from mlx_worker.kv_disk.space import Limits
from mlx_worker.kv_disk.store import DiskStore
from mlx_worker.wire.messages import DiskCache, PrefillProgress, Started
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.prompt_cache import PromptWarmed
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.engine.kv.disk.open_tiers import opened
from tests.synthetic_models import make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlx_worker.engine.kv.disk.reading import DiskReading
    from mlx_worker.kv_disk.files.payload import Payload
    from mlx_worker.kv_disk.files.records import Address

SECONDS = 60.0
"""Until a test that hangs fails."""

GIB = 1 << 30
VERSIONS = {"mlx": "1", "mlx-lm": "1"}


def random_tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(10, 200), k=count)


@cache
def model_of(name: str) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(make(name, Path(mkdtemp()) / name))
    return model, tokenizer


class HeldStore(DiskStore):
    """A store whose records come when the test lets them: `hold`, then `let_go`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.asked: list[Address] = []
        self.apart: list[bool] = []
        self.instead: dict[Address, Payload | None] = {}
        self._free = threading.Semaphore(0)
        self._is_held = False
        self._changed = threading.Condition()
        super().__init__(*arguments, **keywords)

    def hold(self) -> None:
        self._is_held = True

    def let_go(self, records: int | None = None) -> None:
        if records is None:
            self._is_held = False
        self._free.release(1000 if records is None else records)

    def get(self, address: Address, *, apart: bool = False) -> Payload | None:
        with self._changed:
            self.asked.append(address)
            self.apart.append(apart)
            self._changed.notify_all()
        if self._is_held:
            assert self._free.acquire(timeout=SECONDS)
        found = super().get(address, apart=apart)
        return self.instead.get(address, found)

    def wait_until_asked(self, count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, SECONDS)


class Heard:
    """What an engine said."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.started: dict[int, Started] = {}
        self.done: dict[int, Done] = {}
        self.warmed: dict[int, int] = {}
        self.progress: dict[int, list[int]] = {}

    def add(self, messages: Iterable[Any]) -> None:
        for message in messages:
            match message:
                case StepOutput():
                    for row in message.rows:
                        self.tokens.setdefault(row.id, []).extend(row.tokens)
                case Started():
                    self.started[message.id] = message
                case Done():
                    self.done[message.id] = message
                case PromptWarmed():
                    self.warmed[message.id] = message.tokens
                case PrefillProgress():
                    self.progress.setdefault(message.id, []).append(message.done)
                case _:
                    pass


class Place:
    """A folder with the KV of one model; `open` is what a new process does."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model, self.tokenizer = model_of(name)
        self.name = name
        self.folder = folder / "kv"
        self.seconds = 1000.0

    def open(self, *, suspects: Sequence[bytes] = (), cache_bytes: int = GIB) -> Process:
        layers = make_prompt_cache(self.model)
        identity = identity_of(self.model, layers, "weights", VERSIONS)
        store = HeldStore(self.folder, identity, Limits(GIB, 1 << 40, 0), report=print)
        kinds = kinds_of(layers)
        assert kinds is not None
        settings = DiskCache(str(self.folder), GIB, 1 << 40, 0, list(suspects))
        tier = DiskTier(
            store, self.model, identity, kinds, settings, cache_bytes, lambda: self.seconds
        )
        tier.writer.start()
        return Process(self, opened(tier))

    def without_disk(self) -> Process:
        """Return a process that keeps nothing on disk."""
        return Process(self, None)


class Process:
    """What one process has: an engine, and its end."""

    def __init__(self, place: Place, tier: DiskTier | None) -> None:
        self._tier = tier
        self.engine = Engine(
            place.model,
            place.tokenizer,
            context_length=8192,
            max_concurrency=8,
            cache_bytes=GIB if tier is None else tier.cache_bytes,
            disk=tier,
        )
        self.heard = Heard()
        self._ids = 0
        self._woken = threading.Event()
        if tier is not None:
            self.reading._choice.speed = ReadSpeed(
                float("inf")
            )  # the disk is faster than any model
            self.reading.wake_by(self._woken.set)

    @property
    def tier(self) -> DiskTier:
        assert self._tier is not None
        return self._tier

    @property
    def store(self) -> HeldStore:
        assert isinstance(self.tier.store, HeldStore)
        return self.tier.store

    @property
    def reading(self) -> DiskReading:
        assert self.engine.disk_reading is not None
        return self.engine.disk_reading

    def admit(
        self,
        tokens: list[int],
        *,
        system: int = 0,
        answer: int = 4,
        in_session: bool = True,
        replay: list[int] | None = None,
        **request: Any,
    ) -> int:
        self._ids += 1
        chat = ChatRequest([], Sampling(1), answer, **request)
        prompt = Prompt(tokens, system, "system" if system else "")
        message = self.engine.admit(self._ids, chat, prompt, replay=replay, in_session=in_session)
        self.heard.add([message] if message else [])
        return self._ids

    def warm(self, tokens: list[int]) -> int:
        self._ids += 1
        message = self.engine.admit_warm(self._ids, tokens, "system")
        self.heard.add([message] if message else [])
        return self._ids

    def step(self) -> None:
        self.heard.add(self.engine.step())

    def run(self, until: Callable[[], object] | None = None) -> None:
        """Step until all is done, or until a condition holds; sleep where a worker would."""
        limit = time.monotonic() + SECONDS
        while self.engine.active and not (until is not None and until()):
            assert time.monotonic() < limit, "the engine makes no progress"
            if self.engine.awaits_disk:
                assert self._woken.wait(SECONDS), "nothing wakes the engine"
                self._woken.clear()
            self.step()

    def chat(self, tokens: list[int], **settings: Any) -> int:
        """Have a prompt answered; return the id."""
        id_ = self.admit(tokens, **settings)
        self.run()
        return id_

    def tokens_of(self, tokens: list[int], **settings: Any) -> list[int]:
        return self.heard.tokens[self.chat(tokens, **settings)]

    def write(self) -> None:
        """Write everything that is worth keeping."""
        assert self.engine.entry_writer is not None
        self.engine.entry_writer.finish(SECONDS)
        assert self.tier.writer.drain(SECONDS)

    def leave(self) -> None:
        """End as a process does that is told to."""
        self.write()
        self.tier.close(SECONDS)

    def die(self) -> None:
        """End as a process does that is killed: nothing is saved, the kernel closes the folder."""
        self.store._folder.release()
