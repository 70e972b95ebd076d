"""Messages to engine calls, and the engine's results to messages.

The pipe's reader thread answers pings and records cancels at once, and queues the rest.
`preparation` turns chats into token ids and constraints into grammars, on threads beside the decode
loop. The main thread makes every mlx call: load, then admit, cancel and step. [child]
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import psutil

from mlx_worker.child.answers import AnswerWatch
from mlx_worker.child.confirmed_output import ConfirmedOutput
from mlx_worker.child.disk_work import (
    EXIT_LEFT,
    DiskReporter,
    DiskWaits,
    clear_in_background,
    end_within,
    write_and_leave,
)
from mlx_worker.child.failures import failure_of, log_failure
from mlx_worker.child.fatal import end_process
from mlx_worker.child.memory_footprint import footprint_of, on_device_of
from mlx_worker.child.model_loading import load_model
from mlx_worker.child.preparation import (
    ClientGone,
    Preparation,
    PreparationContext,
    PreparationFailed,
    Prepared,
    ReadyToGenerate,
    ReadyToWarm,
)
from mlx_worker.child.ranks.following import follow
from mlx_worker.child.slow_work import WorkMonitor
from mlx_worker.child.working_set import working_set
from mlx_worker.engine.checks.computation import ComputationFailed
from mlx_worker.engine.checks.text_bound import TextBound
from mlx_worker.errors import WorkerError
from mlx_worker.logs import Entry
from mlx_worker.system.priority import NativeThreads
from mlx_worker.wire.messages import (
    PROTOCOL,
    CancelGeneration,
    Generate,
    Hello,
    Leave,
    Load,
    Ping,
    Pong,
    RequestFailed,
    ToChild,
)
from mlx_worker.wire.output import Done
from mlx_worker.wire.prompt_cache import CacheCleared, ClearCache, TrimCache, Warm
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult

if TYPE_CHECKING:
    from typing import NoReturn

    from mlx_worker.child.imported_code import ImportedCode
    from mlx_worker.child.pipe import Pipe
    from mlx_worker.engine.engine import Engine
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.wire.base import WireMessage

log = logging.getLogger(__name__)

SWITCH = 0.0005
"""Seconds for which a thread may keep the interpreter while another waits. At Python's 5 ms a
template beside the decode loop doubles a step of a small model; at this value the step is the
same."""

FEW_ROWS = 8
"""Rows up to which the thread that computes preempts none: it waits for work more often than work
waits for it. At 32 rows streams were a tenth slower by it."""


@dataclass(frozen=True, slots=True)
class _LeaveBy:
    """The end of the process; `deadline` is on the monotonic clock."""

    deadline: float


_Job = ClearCache | TrimCache | CancelGeneration | Prepared


class EngineWorker:
    """Serve one model for one front."""

    def __init__(self, pipe: Pipe, code: ImportedCode) -> None:
        self._pipe = pipe
        self._code = code
        self._output = ConfirmedOutput(pipe.send, self._goes_on)
        self._loads: queue.SimpleQueue[Load] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[_Job | _LeaveBy | None] = queue.SimpleQueue()
        """None wakes the main thread for a step: KV was read from disk."""
        self._work = WorkMonitor()
        self._preparation_work = WorkMonitor()
        """Apart: only a preparation counts as progress while running; a step may hang."""
        self._preparation = Preparation(
            on_prepared=self._jobs.put,
            answer=self._send_answer,
            is_cancelled=self._is_cancelled,
            monitor=self._preparation_work,
        )
        self._answers = AnswerWatch(self._preparation.partings)
        self._process = psutil.Process()
        self._footprint = footprint_of(self._process, on_device=on_device_of(mx.device_info()))
        self._engine: Engine | None = None
        self._disk: DiskTier | None = None
        self._disk_waits = DiskWaits()
        # Ids of requests that are being prepared, and whether they were cancelled meanwhile.
        self._preparing: dict[int, bool] = {}
        self._lock = threading.Lock()

    # --- the reader's thread ---

    def on_message(self, message: ToChild) -> None:
        """Handle one message of the front; never wait for the engine."""
        match message:
            case Ping():
                self._pipe.send([self._pong(message.seq)])
            case Generate() | Tokenize() | Detokenize():
                with self._lock:
                    self._preparing[message.id] = False
                self._preparation.put(message)
            case CancelGeneration():
                with self._lock:
                    if message.id in self._preparing:
                        self._preparing[message.id] = True
                self._jobs.put(message)
            case Warm():
                self._preparation.put(message)
            case ClearCache() | TrimCache():
                self._jobs.put(message)
            case Load():
                self._loads.put(message)
            case Leave():
                end_within(message.seconds)
                self._jobs.put(_LeaveBy(time.monotonic() + message.seconds))

    def _pong(self, seq: int) -> Pong:
        engine = self._engine
        return Pong(
            seq=seq,
            prefilled_tokens=engine.prefilled_tokens if engine else 0,
            decode_steps=engine.decode_steps if engine else 0,
            active=engine.active if engine else 0,
            resident_bytes=self._footprint(),
            device_bytes=mx.get_active_memory(),
            prepared=self._preparation_work.progress
            + self._disk_waits.count(engine.disk_reading if engine else None),
            slow_work=self._work.slow_counts | self._preparation_work.slow_counts,
            drafted_tokens=engine.speculation.drafted if engine else 0,
            accepted_tokens=engine.speculation.accepted if engine else 0,
            model_drafted_tokens=engine.speculation.model_drafted if engine else 0,
            model_accepted_tokens=engine.speculation.model_accepted if engine else 0,
        )

    # --- the threads that prepare ---

    def _is_cancelled(self, id_: int) -> bool:
        with self._lock:
            return self._preparing.get(id_, False)

    def _send_answer(self, answer: TokenizeResult | DetokenizeResult) -> None:
        self._finish_preparation(answer.id)
        self._pipe.send([answer])

    # --- the main thread: everything mlx ---

    def run(self) -> None:
        """Send `Hello`, load the model, then serve until the pipe's reader ends the process.

        An error that is no request's own ends the process: of mlx, of the device, or a defect that
        leaves the engine half-way through a step.
        """
        versions = self._code.versions()
        self._pipe.send(
            [Hello(PROTOCOL, self._process.pid, versions, working_set(mx.device_info()))]
        )
        load = self._loads.get()
        if load.place is not None and load.place.rank > 0:
            follow(load, load.place, versions, self._pipe.send)
        loaded = load_model(
            load,
            self._code,
            send=self._pipe.send,
            on_encoded=self._output.on_encoded,
        )
        engine, self._disk = loaded.engine, loaded.disk
        self._engine = engine
        if self._disk is not None:
            DiskReporter(self._disk, self._pipe.send).start()
        if engine.disk_reading is not None:
            engine.disk_reading.wake_by(lambda: self._jobs.put(None))
        # Loaded objects stay: collecting them again would delay every stream for 50 ms.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH)
        bound = TextBound(loaded.tokenizer, engine.context_length)
        self._preparation.start(
            PreparationContext(
                loaded.tokenizer,
                loaded.constraints,
                bound,
                loaded.offers,
                engine.history,
                drafts=not engine.speculation.off,
            )
        )
        try:
            engine.start_threads()
            threads = NativeThreads()
            self._output.put(engine, [])
            while True:
                self._take_jobs(engine)
                if engine.active:
                    threads.preempt(allowed=engine.active > FEW_ROWS)
                    with self._work.measure("prefill" if engine.has_prefill else "decode"):
                        messages = engine.step()
                    self._answers.observe(messages)
                    self._output.put(engine, messages)
        except Exception as error:  # noqa: BLE001  (after any error, no result may leave)
            end_process(error)

    def _goes_on(self) -> bool:
        """Return True if the next step comes at once and only decodes."""
        return self._engine is not None and not self._engine.has_prefill and self._jobs.empty()

    def _take_jobs(self, engine: Engine) -> None:
        """Run all jobs that wait; with nothing to do in a step, wait for a job."""
        while not self._jobs.empty() or not engine.active or engine.awaits_disk:
            job = self._next_job(engine)
            if job is None:
                return
            if isinstance(job, _LeaveBy):
                self._leave(engine, job.deadline)
            with self._work.measure("admit"):
                messages = self._run_job(engine, job)
            self._answers.observe(messages)
            self._output.put(engine, messages)

    def _next_job(self, engine: Engine) -> _Job | _LeaveBy | None:
        """Return the next job, None where a step has something to do.

        While there is neither, write KV to disk when that is due.
        """
        writer, reading = engine.entry_writer, engine.disk_reading
        until = reading.seconds_left if reading is not None else None
        while writer is not None and (seconds := writer.wait_seconds) is not None:
            with contextlib.suppress(queue.Empty):
                return self._jobs.get(timeout=seconds if until is None else min(seconds, until))
            writer.advance(is_idle=True)
            if until is not None:
                return None
        try:
            return self._jobs.get(timeout=until)
        except queue.Empty:
            return None

    def _run_job(self, engine: Engine, job: _Job) -> list[WireMessage]:
        match job:
            case ReadyToGenerate():
                return self._admit(engine, job)
            case ReadyToWarm():
                return self._warm(engine, job)
            case PreparationFailed():
                return [self._failure(job.id, job.error, job.request_id)]
            case ClientGone():
                self._finish_preparation(job.id)
                return [Done(job.id, "cancelled", 0)]
            case CancelGeneration():
                done = engine.cancel(job.id)
                return [done] if done else []
            case ClearCache() | TrimCache():
                return self._forget(engine, job)

    def _forget(self, engine: Engine, job: ClearCache | TrimCache) -> list[WireMessage]:
        """Forget cached prompts. The disk sends the answer itself, once all is deleted."""
        if isinstance(job, TrimCache):
            engine.trim_cache(job.nbytes)
            return [CacheCleared(job.id)]
        engine.clear_cache()
        self._preparation.partings.clear()
        if self._disk is None:
            return [CacheCleared(job.id)]
        clearing = clear_in_background(self._disk, job.id, self._pipe.send)
        self._disk_waits.begin_clearing(clearing)
        return []

    def _leave(self, engine: Engine, deadline: float) -> NoReturn:
        """Write what is worth keeping, until `deadline` on the monotonic clock, and end."""
        if self._disk is not None:
            write_and_leave(engine, self._disk, deadline)
        os._exit(EXIT_LEFT)

    def _admit(self, engine: Engine, job: ReadyToGenerate) -> list[WireMessage]:
        id_, request_id = job.message.id, job.message.request_id
        log.debug(Entry("taken in", request_id=request_id, tokens=len(job.prompt.tokens)))
        if self._finish_preparation(id_):
            return [Done(id_, "cancelled", 0)]
        try:
            begun = engine.admit(
                id_,
                job.offer.request,
                job.prompt,
                replay=job.message.replay,
                in_session=bool(job.message.session),
                constraint=job.constraint,
                room=job.message.room,
            )
        except (ComputationFailed, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (one bad request must not end the model)
            return [self._failure(id_, error, request_id)]
        self._answers.begin(job.message)
        if job.offer.notice:
            self._output.add_notice(id_, job.offer.notice)
        return [begun] if begun else []

    def _warm(self, engine: Engine, job: ReadyToWarm) -> list[WireMessage]:
        try:
            warmed = engine.admit_warm(job.message.id, job.tokens, job.message.system_prompt)
        except WorkerError as error:
            return [self._failure(job.message.id, error, "")]
        return [warmed] if warmed else []

    def _finish_preparation(self, id_: int) -> bool:
        """Record that a request is prepared; return True if the request was cancelled meanwhile."""
        with self._lock:
            return self._preparing.pop(id_, False)

    def _failure(self, id_: int, error: BaseException, request_id: str) -> RequestFailed:
        self._finish_preparation(id_)
        log_failure(error, request_id)
        return failure_of(id_, error)
