"""A worker without a model: speaks the wire's protocol and does what its flags say.

It answers every message as the product's own child would, with text that a test can foretell: the
answer to a chat is the words of its last user message, one a decode step, and their token ids are
1, 2, 3 and so on: a replay of k ids goes on with word k + 1. Each flag is one fault
(`--…-after-tokens K`: once a generation has had K, with `--only WORD` one that will say WORD);
`--once FILE` keeps them to the incarnation that creates FILE, so that its successor works;
`--plan FILE` gives each incarnation the flags of the next line.

With `--pace FIFO` a decode step waits for a byte from there, and so do hello, the end of loading,
the start of a generation and a warm-up with their `--hold-…`: tests hold time in their hands and
never sleep. With `--load-for S` and `--prefill-for S` both take so long, and report progress
`--reports` times.

What the worker runs on is its `Host`: a process of its own (`tests/worker_in_process.py`) or a task
in the test's process (`tests/worker_in_memory.py`). That both do what the product's child does is
proved in `tests/supervisor/process/test_worker_contract.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import time
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import msgspec

from mlx_worker.child.kv_blocks import BlockIndex
from mlx_worker.errors import CacheError, ContextLengthExceeded, InferenceError, Unavailable
from mlx_worker.wire.messages import (
    PROTOCOL,
    CancelGeneration,
    DiskCache,
    Gathering,
    Generate,
    Hello,
    Leave,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    PassCost,
    Ping,
    Pong,
    PrefillProgress,
    RequestFailed,
    Started,
    ToChild,
)
from mlx_worker.wire.output import Done, FinishReason, RowOutput, StepOutput
from mlx_worker.wire.parting import Parting
from mlx_worker.wire.prompt_cache import (
    CacheCleared,
    CacheState,
    ClearCache,
    DiskState,
    PromptWarmed,
    TrimCache,
    Warm,
)
from mlx_worker.wire.splice import Splice
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.request import ChatRequest

EXIT_AS_TOLD = 3
GATHERING_PORT = 4711
WEIGHT_BYTES = 123_456
NOT_DRAFTED = "it was told so"
PASS_COSTS = [PassCost(1, 1, 0.001), PassCost(1, 8, 0.0015), PassCost(4, 1, 0.002)]
CONTEXT_LENGTH = 4096
CAPACITY = 1 << 20
DISK_RECORD = 1000
"""Bytes of each record that the worker says to have on disk."""
HOLDS = ("pace", "hold-hello", "hold-load", "hold-start", "hold-warm")
LASTING = ("load-for", "prefill-for")
REPORTS = 60
SPLICE = Splice("<|", 2, b"digest", 4, 9, "normal", b"\1\0\0\0")
"""What each prompt is said to have of earlier answers: a front gives it back."""
RECORDS = tuple(bytes([0, number]) for number in range(9))
"""The KV that a worker with a disk says it reads, a record each time; one under suspicion never."""
GARBAGE = (2).to_bytes(4, "big") + b"\xc1\xc1"


class Tick:
    """Leave for one decode step."""


class Host(Protocol):
    """What a worker runs on. The coroutines may block: they are the worker's only work."""

    pid: int

    def send(self, messages: Iterable[WireMessage]) -> None:
        """Send messages to the front in one write."""

    def send_bytes(self, data: bytes) -> None:
        """Send bytes that may be no message."""

    def write(self, text: str) -> None:
        """Write to the stderr of the worker."""

    def has_jobs(self) -> bool:
        """Return True if `next_job` would not wait."""

    async def next_job(self) -> ToChild | Tick:
        """Wait for the next message that is no ping, or for leave for a decode step."""

    def follow(self, pace: Path) -> None:
        """Make each byte from a named pipe a job: leave for one decode step."""

    async def wait_for_byte(self, fifo: Path) -> None:
        """Wait for a byte from a named pipe."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass, and others have their turn."""

    async def hang(self) -> NoReturn:
        """Do nothing for ever. Pings are still answered."""

    async def end(self, code: int) -> NoReturn:
        """End with this exit code; with a negative one, by that signal."""


@cache
def parser_of_flags() -> argparse.ArgumentParser:
    """Return what reads a worker's flags: made once, for thousands of workers in one process."""
    parser = argparse.ArgumentParser(description="A child without a model.")
    for flag in HOLDS:
        parser.add_argument(f"--{flag}", type=Path, metavar="FIFO")
    parser.add_argument("--once", type=Path, metavar="FILE")
    parser.add_argument("--plan", type=Path, metavar="FILE")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--resident", type=int, default=1 << 20, metavar="BYTES")
    parser.add_argument("--working-set", type=int, metavar="BYTES")
    parser.add_argument("--grow", type=int, default=0, metavar="BYTES", help="with each answer")
    parser.add_argument("--every", type=float, default=0, metavar="S", help="a step each so often")
    for flag in LASTING:
        parser.add_argument(f"--{flag}", type=float, default=0, metavar="S")
    parser.add_argument("--reports", type=int, default=REPORTS, metavar="N", help="of progress")
    parser.add_argument("--weights", default="", metavar="NAME", help="what it says it has loaded")
    parser.add_argument("--version", default="1", help="of the code it says it runs")
    parser.add_argument("--package", default="", help="the version of mlx-worker it says it runs")
    parser.add_argument("--disk-tokens", type=int, metavar="N", help="are read from disk")
    parser.add_argument("--disk-off", default="", metavar="WHY", help="it says of its disk")
    fault = parser.add_argument_group("faults")
    fault.add_argument("--no-hello", action="store_true")
    fault.add_argument("--wrong-protocol", action="store_true")
    fault.add_argument("--exit-before-hello", type=int, metavar="STATUS")
    fault.add_argument("--load-failed", action="store_true")
    fault.add_argument("--cannot-load", action="store_true")
    fault.add_argument("--hang-in-load", action="store_true")
    fault.add_argument("--garbage-after-tokens", type=int, metavar="K")
    fault.add_argument("--unknown-id-after-tokens", type=int, metavar="K")
    fault.add_argument("--die-after-tokens", type=int, metavar="K")
    fault.add_argument("--segv-after-tokens", type=int, metavar="K")
    fault.add_argument("--abort-after-tokens", type=int, metavar="K")
    fault.add_argument("--exit-after-tokens", type=int, metavar="K")
    fault.add_argument("--hang-after-tokens", type=int, metavar="K")
    parser.add_argument("--prepare", type=int, default=0, metavar="PINGS", help="is progress")
    fault.add_argument("--fail-after-tokens", type=int, metavar="K")
    fault.add_argument("--mute-after-tokens", type=int, metavar="K", help="no Done at K tokens")
    fault.add_argument("--never-shrink", action="store_true")
    fault.add_argument("--refuse", action="store_true")
    fault.add_argument("--unavailable", action="store_true")
    fault.add_argument("--fail-warm", action="store_true")
    fault.add_argument("--ignore-eof", action="store_true")
    fault.add_argument("--restore", action="store_true", help="records before the start is told")
    fault.add_argument("--die-of-records", type=int, default=0, metavar="N", help="the first N")
    fault.add_argument("--write", metavar="TEXT", help="to stderr, before anything else")
    return parser


def arguments(given_flags: Sequence[str]) -> argparse.Namespace:
    """Return the flags of this incarnation: those of a file or a plan with those given."""
    parser = parser_of_flags()
    given = parser.parse_args(given_flags)
    if given.once is not None and not claimed(given.once):
        return parser.parse_args([*without_faults(given)])
    if given.plan is not None:
        return parser.parse_args([*without_faults(given), *next_line(given.plan)])
    return given


def next_line(plan: Path) -> list[str]:
    """The flags of this incarnation; the next one finds the rest."""
    first, _, rest = plan.read_text().partition("\n")
    plan.write_text(rest)
    return first.split()


def claimed(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def without_faults(given: argparse.Namespace) -> list[str]:
    kept = [f"--resident={given.resident}", f"--grow={given.grow}"]
    for flag in HOLDS:
        if fifo := getattr(given, flag.replace("-", "_")):
            kept += [f"--{flag}", str(fifo)]
    for flag in (*LASTING, "reports"):
        kept += [f"--{flag}", str(getattr(given, flag.replace("-", "_")))]
    return kept


def words(text: object) -> list[str]:
    return str(text or "").split()


def token_ids(text: str) -> tuple[int, ...]:
    """What each word of a prompt is in the blocks that the worker reports."""
    return tuple(zlib.crc32(word.encode()) for word in words(text))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def system_prompt(request: ChatRequest) -> str | None:
    if not request.messages:
        return None
    first = request.messages[0]
    return str(first["content"]) if first["role"] == "system" else None


def answer(request: ChatRequest) -> list[str]:
    """The pieces of the whole answer: the last user message or the prompt, word by word."""
    said = (
        [raw(request)]
        if request.prompt is not None
        else [turn["content"] for turn in request.messages if turn["role"] == "user"]
    )
    return [f" {word}" if at else word for at, word in enumerate(words(said[-1] if said else ""))]


def raw(request: ChatRequest) -> str:
    """A raw prompt as text: its tokens are numbers."""
    prompt = request.prompt
    return " ".join(map(str, prompt)) if isinstance(prompt, list) else prompt or ""


def read(request: ChatRequest) -> list[str]:
    """Everything that is read, word by word: a token each."""
    said = [raw(request), *(turn["content"] for turn in request.messages)]
    return [word for text in said for word in words(text)]


def common(before: Sequence[object], after: Sequence[object]) -> int:
    """How many first items are the same."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(before), len(after)))


def parting(last: ChatRequest, now: ChatRequest) -> Parting:
    """Where a prompt parts from the last one of its session, by words and whole messages."""
    before, after = read(last), read(now)
    shared = common(before, after)
    if shared in (len(before), len(after)):
        return Parting(shared, len(before), "none")
    if now.prompt is not None:
        return Parting(shared, len(before), "prompt")
    if system_prompt(last) != system_prompt(now):
        return Parting(shared, len(before), "system")
    turns = [
        [turn for turn in request.messages if turn["role"] != "system"] for request in (last, now)
    ]
    at = common(*turns)
    return Parting(shared, len(before), "turn", at + 1, turns[1][at]["role"])


@dataclass(slots=True)
class Row:
    """One generation: what it will have said, and how far it is."""

    id: int
    pieces: list[str]
    finish: FinishReason
    said: int = 0
    predicted: int = 0


class FakeWorker:
    """One incarnation of a worker on its host."""

    def __init__(self, flags: argparse.Namespace, host: Host) -> None:
        self._flags = flags
        self._host = host
        self._rows: dict[int, Row] = {}
        self._permits = 0
        self._resident: dict[str, int] = {}  # system prompts by hash: tokens
        self._last: dict[str, ChatRequest] = {}  # by session
        self._prefilled = 0
        self._steps = 0
        self._grown = 0
        self._drafted = 0
        self._disk_hits = 0
        self._on_disk = 0
        self._disk: DiskCache | None = None
        self._blocks: BlockIndex | None = None

    @property
    def ignores_eof(self) -> bool:
        """Return True if the worker stays when the front closes its pipe."""
        return bool(self._flags.ignore_eof)

    def reply_at_once(self, message: ToChild) -> Pong | None:
        """Return the answer to a ping, whatever the worker does; None: the message is a job."""
        return self._pong(message.seq) if isinstance(message, Ping) else None

    def _pong(self, seq: int) -> Pong:
        return Pong(
            seq=seq,
            prefilled_tokens=self._prefilled,
            decode_steps=self._steps,
            active=len(self._rows),
            resident_bytes=self._flags.resident + self._grown,
            device_bytes=1 << 19,
            prepared=min(seq, self._flags.prepare),
            drafted_tokens=self._drafted,
            accepted_tokens=self._drafted,
            model_drafted_tokens=self._drafted // 2,
            model_accepted_tokens=self._drafted // 4,
        )

    async def run(self) -> NoReturn:
        """Do what the flags say, to the end of the worker."""
        if self._flags.write:
            self._host.write(f"{self._flags.write}\n")
        await self._hello()
        await self._load()
        if self._flags.pace:
            self._host.follow(self._flags.pace)
        while True:
            if self._may_step() and not self._host.has_jobs():
                await self._step()
            else:
                await self._answer(await self._host.next_job())

    async def _hello(self) -> None:
        if self._flags.exit_before_hello is not None:
            await self._host.end(self._flags.exit_before_hello)
        if self._flags.no_hello:
            await self._host.hang()
        await self._wait_for_leave(self._flags.hold_hello)
        protocol = PROTOCOL + 1 if self._flags.wrong_protocol else PROTOCOL
        versions = {"scripted": self._flags.version}
        if self._flags.package:
            versions["mlx-worker"] = self._flags.package
        self._host.send([Hello(protocol, self._host.pid, versions, self._flags.working_set)])

    async def _load(self) -> None:
        load = await self._host.next_job()
        assert isinstance(load, Load)
        self._disk = load.disk
        self._blocks = BlockIndex() if load.report_blocks else None
        if load.place is not None and load.place.rank == 0:
            self._host.send([Gathering(GATHERING_PORT)])
        self._host.send([LoadProgress(WEIGHT_BYTES // 2, WEIGHT_BYTES)])
        if self._flags.hang_in_load:
            await self._host.hang()
        if self._flags.load_failed or self._flags.cannot_load:
            self._host.send([LoadFailed("so it was written", permanent=self._flags.cannot_load)])
            await self._host.end(1)
        await self._wait_for_leave(self._flags.hold_load)
        await self._take(
            self._flags.load_for,
            lambda share: LoadProgress(int(WEIGHT_BYTES * share), WEIGHT_BYTES),
        )
        self._host.send(
            [
                LoadProgress(WEIGHT_BYTES, WEIGHT_BYTES),
                Loaded(
                    load.context_length or CONTEXT_LENGTH,
                    WEIGHT_BYTES,
                    weights=self._flags.weights,
                    no_speculation=NOT_DRAFTED if load.speculation == "off" else "",
                    pass_costs=PASS_COSTS,
                    draft_costs=PASS_COSTS[:1] if load.draft else [],
                ),
            ]
        )

    def _may_step(self) -> bool:
        return bool(self._rows) and (not self._flags.pace or self._permits > 0)

    async def _answer(self, job: ToChild | Tick) -> None:
        match job:
            case Tick():
                self._permits += 1
            case Generate():
                await self._generate(job)
            case CancelGeneration():
                if (row := self._rows.pop(job.id, None)) is not None:
                    self._host.send([Done(row.id, "cancelled", row.said, "")])
            case Warm():
                await self._warm(job)
            case Tokenize():
                tokens = list(range(1, len(read(job.request)) + 1))
                self._host.send([TokenizeResult(job.id, len(tokens), msgspec.json.encode(tokens))])
            case Detokenize():
                text = msgspec.json.encode(" ".join(map(str, job.tokens)))
                self._host.send([DetokenizeResult(job.id, text)])
            case ClearCache() | TrimCache():
                self._forget(job)
            case Leave():
                await self._leave()
            case _:
                raise AssertionError(job)

    async def _leave(self) -> NoReturn:
        """Leave, with a step for a request that has ended; or stay, as at EOF."""
        self._host.write("leaving\n")
        self._host.send(
            [StepOutput([RowOutput(row.id, [1], "late") for row in self._rows.values()])]
        )
        if self.ignores_eof:
            await self._host.hang()
        await self._host.end(0)

    async def _generate(self, asked: Generate) -> None:
        id_, request = asked.id, asked.request
        await self._wait_for_leave(self._flags.hold_start)
        if self._flags.refuse:
            self._host.send(
                [RequestFailed(id_, ContextLengthExceeded.code, "5000 tokens of 4096", "messages")]
            )
            return
        if self._flags.unavailable:
            self._host.send([RequestFailed(id_, Unavailable.code, "so it was written")])
            return
        said = len(asked.replay)
        assert asked.replay == list(range(1, said + 1)), asked.replay
        assert asked.splices == (None if asked.room is None else [SPLICE]), asked.splices
        prompt_tokens = len(read(request))
        system = system_prompt(request)
        hit = system is not None and digest(system) in self._resident
        cached = len(words(system)) if hit else 0
        pieces = answer(request)
        limit = len(pieces) if request.max_tokens is None else request.max_tokens
        finish: FinishReason = "length" if limit < len(pieces) else "stop"
        predicted = len(request.prediction.split())
        self._rows[id_] = Row(id_, pieces[:limit], finish, said, predicted)
        self._drafted += predicted
        self._prefilled += prompt_tokens - cached
        self._grown += self._flags.grow
        unread = prompt_tokens - cached
        from_disk = min(cached, self._flags.disk_tokens or 0)
        if self._flags.restore and (records := self._records()):
            self._host.send([PrefillProgress(id_, 0, prompt_tokens, records)])
            await self._die_of(records)
        started = Started(
            id_,
            prompt_tokens,
            cached,
            hit,
            room=limit,
            parting=self._part(asked),
            splices=[SPLICE],
            disk_tokens=from_disk,
            disk_records=self._records(),
        )
        self._host.send([started])
        if self._flags.disk_tokens is not None:
            self._disk_hits += bool(from_disk)
            self._on_disk += 1
            self._host.send([self._disk_state()])
        await self._die_of(started.disk_records)
        await self._take(
            self._flags.prefill_for,
            lambda share: PrefillProgress(id_, int(unread * share), unread),
        )
        self._host.send(
            [
                PrefillProgress(id_, unread, unread),
                *([] if system is None else [self._now_resident(system)]),
                *([self._cache_state(system)] if self._flags.grow else []),
            ]
        )
        await self._go_wrong(self._rows[id_])

    async def _die_of(self, records: list[bytes]) -> None:
        if any(record in RECORDS[: self._flags.die_of_records] for record in records):
            await self._host.end(-signal.SIGSEGV)

    def _records(self) -> list[bytes]:
        """The record that is read from disk, if there is a disk: the first without suspicion."""
        disk = self._disk
        if disk is None:
            return []
        return [record for record in RECORDS if record not in disk.suspects][:1]

    def _part(self, asked: Generate) -> Parting | None:
        if not asked.session:
            return None
        last, self._last[asked.session] = self._last.get(asked.session), asked.request
        return None if last is None else parting(last, asked.request)

    async def _warm(self, asked: Warm) -> None:
        if self._flags.fail_warm:
            self._host.send([RequestFailed(asked.id, CacheError.code, "so it was written")])
            return
        await self._wait_for_leave(self._flags.hold_warm)
        tokens = len(words(asked.system_prompt))
        if self._flags.restore and (records := self._records()):
            self._host.send([PrefillProgress(asked.id, 0, tokens, records)])
            await self._die_of(records)
        state = self._now_resident(asked.system_prompt)
        self._host.send([PromptWarmed(asked.id, tokens), state])

    def _forget(self, asked: ClearCache | TrimCache) -> None:
        if isinstance(asked, ClearCache):
            self._resident.clear()
            if self._blocks is not None:
                self._blocks.clear()
                self._host.send(self._blocks.reports())
        elif not self._flags.never_shrink:
            self._grown = max(0, self._grown - asked.nbytes)
        self._host.send([CacheCleared(asked.id), self._cache_state(None)])
        if self._flags.disk_tokens is not None and isinstance(asked, ClearCache):
            self._on_disk = 0
            self._host.send([self._disk_state()])

    def _now_resident(self, prompt: str) -> CacheState:
        is_new = digest(prompt) not in self._resident
        self._resident[digest(prompt)] = len(words(prompt))
        if self._blocks is not None and is_new:
            self._blocks.add(token_ids(prompt))
            self._host.send(self._blocks.reports())
        return self._cache_state(prompt)

    def _cache_state(self, prompt: str | None) -> CacheState:
        return CacheState(
            tokens=len(words(prompt)),
            system_prompt_hash=digest(prompt) if prompt else "",
            last_updated=time.time() * 1000,
            entries=len(self._resident),
            warmed=len(self._resident),
            bytes=self._grown or sum(self._resident.values()),
            capacity=CAPACITY,
        )

    def _disk_state(self) -> DiskState:
        hits, records = self._disk_hits, self._on_disk
        return DiskState(
            records=records,
            bytes=records * DISK_RECORD,
            total_bytes=records * DISK_RECORD + 1,
            capacity=CAPACITY,
            written_today=DISK_RECORD,
            hits=hits,
            misses=2 * hits,
            hit_tokens=hits * (self._flags.disk_tokens or 0),
            seconds_saved=hits / 2,
            quarantined=1,
            corrupt=hits,
            evicted_segments=hits,
            dropped=hits,
            off=self._flags.disk_off,
        )

    async def _step(self) -> None:
        """One decode step: a word of every row, all in one frame."""
        self._permits -= 1
        await self._host.sleep(self._flags.every)
        self._steps += 1
        speaking = [row for row in self._rows.values() if row.said < len(row.pieces)]
        said = [self._next(row) for row in speaking]
        over = [row for row in self._rows.values() if row.said == len(row.pieces)]
        for row in over:
            del self._rows[row.id]
        self._host.send(
            [
                *([StepOutput(said)] if said else []),
                *(
                    Done(
                        row.id,
                        row.finish,
                        row.said,
                        accepted_prediction_tokens=row.predicted,
                        rejected_prediction_tokens=1 if row.predicted else 0,
                    )
                    for row in over
                    if row.said != self._flags.mute_after_tokens
                ),
            ]
        )
        for row in speaking:
            await self._go_wrong(row)

    def _next(self, row: Row) -> RowOutput:
        piece = row.pieces[row.said]
        row.said += 1
        return RowOutput(row.id, [row.said], piece)

    # --- faults in the middle of work ---

    async def _go_wrong(self, row: Row) -> None:
        flags = self._flags
        if flags.only and flags.only not in "".join(row.pieces).split():
            return
        self._break_the_protocol(row)
        if row.said == flags.die_after_tokens:
            await self._host.end(-signal.SIGKILL)
        if row.said == flags.segv_after_tokens:
            await self._host.end(-signal.SIGSEGV)
        if row.said == flags.abort_after_tokens:
            await self._host.end(-signal.SIGABRT)
        if row.said == flags.exit_after_tokens:
            await self._host.end(EXIT_AS_TOLD)
        if row.said == flags.hang_after_tokens:
            await self._host.hang()
        if row.said == flags.fail_after_tokens and self._rows.pop(row.id, None):
            self._host.send([RequestFailed(row.id, InferenceError.code, "so it was written")])

    def _break_the_protocol(self, row: Row) -> None:
        if row.said == self._flags.garbage_after_tokens:
            self._host.send_bytes(GARBAGE)
        if row.said == self._flags.unknown_id_after_tokens:
            self._host.send([StepOutput([RowOutput(row.id + 1000, [1], "whose is this?")])])

    async def _take(self, seconds: float, report: Callable[[float], WireMessage]) -> None:
        """Let this number of seconds pass, and report the share of the work that is done."""
        for number in range(1, self._flags.reports + 1) if seconds else ():
            await self._host.sleep(seconds / self._flags.reports)
            self._host.send([report(number / self._flags.reports)])

    async def _wait_for_leave(self, fifo: Path | None) -> None:
        if fifo is not None:
            await self._host.wait_for_byte(fifo)
