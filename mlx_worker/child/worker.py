"""Messages to engine calls, and what the engine says back to messages.

The pipe's reader answers pings and notes cancels at once, and passes the rest on. `preparation`
turns chats into token ids and shapes into grammars, on threads of its own beside the decode loop.
The main thread owns every mlx call: it loads, then admits, cancels and steps. [child]
"""

from __future__ import annotations

import gc
import logging
import queue
import sys
import threading
from typing import TYPE_CHECKING

import mlx.core as mx
import psutil

from mlx_worker.child.confirmed_output import ConfirmedOutput
from mlx_worker.child.failures import failure_of, log_failure
from mlx_worker.child.fatal import end_process
from mlx_worker.child.memory_footprint import footprint_of
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
from mlx_worker.child.slow_work import WorkMonitor
from mlx_worker.child.working_set import working_set
from mlx_worker.engine.guard import ComputationFailed
from mlx_worker.engine.text_bound import TextBound
from mlx_worker.errors import WorkerError
from mlx_worker.logs import Entry
from mlx_worker.wire.messages import (
    PROTOCOL,
    CacheCleared,
    CancelGeneration,
    ClearCache,
    Detokenize,
    DetokenizeResult,
    Generate,
    Hello,
    Load,
    Ping,
    Pong,
    RequestFailed,
    ToChild,
    Tokenize,
    TokenizeResult,
    TrimCache,
    Warm,
)
from mlx_worker.wire.output import Done

if TYPE_CHECKING:
    from mlx_worker.child.imported_code import ImportedCode
    from mlx_worker.child.pipe import Pipe
    from mlx_worker.engine.engine import Engine
    from mlx_worker.wire.base import WireMessage

log = logging.getLogger(__name__)

SWITCH = 0.0005
"""Seconds that a thread may keep the interpreter while another waits: a template at work beside the
decode loop doubles a step of a small model at Python's 5 ms, and is not noticed at this."""

_Job = ClearCache | TrimCache | CancelGeneration | Prepared


class EngineWorker:
    """One model for one front."""

    def __init__(self, pipe: Pipe, code: ImportedCode) -> None:
        self._pipe = pipe
        self._code = code
        self._output = ConfirmedOutput(pipe.send, self._goes_on)
        self._loads: queue.SimpleQueue[Load] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._held = WorkMonitor()
        self._prepares = WorkMonitor()
        """Apart, because only this is progress while it is under way: a step may hang."""
        self._preparation = Preparation(
            on_prepared=self._jobs.put,
            answer=self._tell,
            has_left=self._has_left,
            held=self._prepares,
        )
        self._process = psutil.Process()
        self._footprint = footprint_of(self._process)
        self._engine: Engine | None = None
        # Ids on their way to the engine, and whether their client has left meanwhile.
        self._coming: dict[int, bool] = {}
        self._lock = threading.Lock()

    # --- the reader's thread ---

    def on_message(self, message: ToChild) -> None:
        """Take in one message; never waits for the engine."""
        match message:
            case Ping():
                self._pipe.send([self._pong(message.seq)])
            case Generate() | Tokenize() | Detokenize():
                with self._lock:
                    self._coming[message.id] = False
                self._preparation.put(message)
            case CancelGeneration():
                with self._lock:
                    if message.id in self._coming:
                        self._coming[message.id] = True
                self._jobs.put(message)
            case Warm():
                self._preparation.put(message)
            case ClearCache() | TrimCache():
                self._jobs.put(message)
            case Load():
                self._loads.put(message)

    def _pong(self, seq: int) -> Pong:
        engine = self._engine
        return Pong(
            seq=seq,
            prefilled_tokens=engine.prefilled_tokens if engine else 0,
            decode_steps=engine.decode_steps if engine else 0,
            active=engine.active if engine else 0,
            resident_bytes=self._footprint(),
            device_bytes=mx.get_active_memory(),
            prepared=self._prepares.progress,
            slow_work=self._held.over | self._prepares.over,
        )

    # --- the threads that prepare ---

    def _has_left(self, id_: int) -> bool:
        with self._lock:
            return self._coming.get(id_, False)

    def _tell(self, answer: TokenizeResult | DetokenizeResult) -> None:
        self._arrived(answer.id)
        self._pipe.send([answer])

    # --- the main thread: everything mlx ---

    def run(self) -> None:
        """Say hello, load what is asked for, then serve until the pipe's reader ends us.

        An error that no request is answered with ends the process: mlx's, the device's, or a
        defect that leaves the engine half-way through a step.
        """
        versions = self._code.versions()
        self._pipe.send(
            [Hello(PROTOCOL, self._process.pid, versions, working_set(mx.device_info()))]
        )
        loaded = load_model(
            self._loads.get(),
            self._code,
            send=self._pipe.send,
            on_encoded=self._output.on_encoded,
        )
        engine = self._engine = loaded.engine
        # What is loaded stays; to look it all over again would hold every stream up for 50 ms.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH)
        bound = TextBound(loaded.tokenizer, engine.context_length)
        self._preparation.start(
            PreparationContext(loaded.tokenizer, loaded.constraints, bound, loaded.offers)
        )
        try:
            self._output.put(engine, [])
            while True:
                self._take_jobs(engine)
                if engine.active:
                    with self._held.by("prefill" if engine.has_prefill else "decode"):
                        said = engine.step()
                    self._output.put(engine, said)
        except Exception as error:  # noqa: BLE001  (whatever it is, nothing computed is to leave)
            end_process(error)

    def _goes_on(self) -> bool:
        """Return True if the next step comes at once and only decodes."""
        return self._engine is not None and not self._engine.has_prefill and self._jobs.empty()

    def _take_jobs(self, engine: Engine) -> None:
        """Everything that waits; with nothing to decode, wait for something."""
        while not self._jobs.empty() or not engine.active:
            job = self._jobs.get()
            with self._held.by("admit"):
                said = self._answer(engine, job)
            self._output.put(engine, said)

    def _answer(self, engine: Engine, job: _Job) -> list[WireMessage]:
        match job:
            case ReadyToGenerate():
                return self._admit(engine, job)
            case ReadyToWarm():
                return self._warm(engine, job)
            case PreparationFailed():
                return [self._failure(job.id, job.error, job.request_id)]
            case ClientGone():
                self._arrived(job.id)
                return [Done(job.id, "cancelled", 0)]
            case CancelGeneration():
                done = engine.cancel(job.id)
                return [done] if done else []
            case ClearCache():
                engine.clear_cache()
            case TrimCache():
                engine.trim_cache(job.nbytes)
        return [CacheCleared(job.id)]

    def _admit(self, engine: Engine, job: ReadyToGenerate) -> list[WireMessage]:
        id_, request_id = job.message.id, job.message.request_id
        log.debug(Entry("taken in", request_id=request_id, tokens=len(job.prompt.tokens)))
        if self._arrived(id_):
            return [Done(id_, "cancelled", 0)]
        try:
            begun = engine.admit(
                id_,
                job.offer.request,
                job.prompt,
                replay=job.message.replay,
                in_session=bool(job.message.session),
                constraint=job.constraint,
            )
        except (ComputationFailed, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (one bad request must not end the model)
            return [self._failure(id_, error, request_id)]
        if job.offer.notice:
            self._output.add_notice(id_, job.offer.notice)
        return [begun] if begun else []

    def _warm(self, engine: Engine, job: ReadyToWarm) -> list[WireMessage]:
        try:
            warmed = engine.admit_warm(job.message.id, job.head, job.message.system_prompt)
        except WorkerError as error:
            return [self._failure(job.message.id, error, "")]
        return [warmed] if warmed else []

    def _arrived(self, id_: int) -> bool:
        """It is on its way no longer; had its client left?"""
        with self._lock:
            return self._coming.pop(id_, False)

    def _failure(self, id_: int, error: BaseException, request_id: str) -> RequestFailed:
        self._arrived(id_)
        log_failure(error, request_id)
        return failure_of(id_, error)
