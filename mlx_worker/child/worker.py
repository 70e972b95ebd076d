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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import psutil
from msgspec.structs import replace

from mlx_worker.child.fatal import end_process, frames_of
from mlx_worker.child.frame_batcher import Outbox
from mlx_worker.child.memory_footprint import footprint_of
from mlx_worker.child.preparation import (
    Left,
    Preparation,
    Prepared,
    Ready,
    ReadyToWarm,
    Refused,
    Tools,
)
from mlx_worker.child.slow_work import Held
from mlx_worker.child.working_set import working_set
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.guard import ComputationFailed
from mlx_worker.engine.kv_cost import measure, most_tokens
from mlx_worker.engine.loading import read_model, weight_bytes
from mlx_worker.engine.structured.compiler import Constraints
from mlx_worker.engine.templates.rules import rules_of
from mlx_worker.engine.templates.tool_offer import ToolOffers
from mlx_worker.engine.text_bound import TextBound
from mlx_worker.engine.weights_hash import check_unchanged, folder_state, model_identity
from mlx_worker.errors import (
    CHILD_CODES,
    BadModelFolder,
    ContextLengthExceeded,
    ModelNotFoundError,
    UnservableModel,
    WorkerError,
)
from mlx_worker.logs import Entry
from mlx_worker.system.process_titles import set_title
from mlx_worker.wire import messages as m
from mlx_worker.wire.framing import sayable

if TYPE_CHECKING:
    from mlx_worker.child.imported_code import ImportedCode
    from mlx_worker.child.pipe import Pipe
    from mlx_worker.engine.prompt_cache import CacheFacts

log = logging.getLogger(__name__)

SWITCH = 0.0005
"""Seconds that a thread may keep the interpreter while another waits: a template at work beside the
decode loop doubles a step of a small model at Python's 5 ms, and is not noticed at this."""

PERMANENT = (ModelNotFoundError, BadModelFolder, UnservableModel)
"""What another try would not heal."""


_Job = m.ClearCache | m.TrimCache | m.Cancel | Prepared


class Service:
    """One model for one front."""

    def __init__(self, pipe: Pipe, code: ImportedCode) -> None:
        self._pipe = pipe
        self._code = code
        self._outbox = Outbox(pipe.send)
        self._loads: queue.SimpleQueue[m.Load] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._held = Held()
        self._prepares = Held()
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
        self._tokenizer: Any = None
        self._told: CacheFacts | None = None
        # What the engine said since the device was last seen to have raised nothing.
        self._unconfirmed: list[m.Message] = []
        # Ids on their way to the engine, and whether their client has left meanwhile.
        self._coming: dict[int, bool] = {}
        self._lock = threading.Lock()
        # What the callers of running ids are to be told with the end of their answer.
        self._notices: dict[int, str] = {}

    # --- the reader's thread ---

    def hear(self, message: m.ToChild) -> None:
        """Take in one message; never waits for the engine."""
        match message:
            case m.Ping():
                self._pipe.send([self._pong(message.seq)])
            case m.Generate() | m.Tokenize() | m.Detokenize():
                with self._lock:
                    self._coming[message.id] = False
                self._preparation.put(message)
            case m.Cancel():
                with self._lock:
                    if message.id in self._coming:
                        self._coming[message.id] = True
                self._jobs.put(message)
            case m.Warm():
                self._preparation.put(message)
            case m.ClearCache() | m.TrimCache():
                self._jobs.put(message)
            case m.Load():
                self._loads.put(message)

    def _pong(self, seq: int) -> m.Pong:
        engine = self._engine
        return m.Pong(
            seq=seq,
            prefilled_tokens=engine.prefilled_tokens if engine else 0,
            decode_steps=engine.decode_steps if engine else 0,
            active=engine.active if engine else 0,
            resident_bytes=self._footprint(),
            device_bytes=mx.get_active_memory(),
            prepared=self._prepares.progress,
            held=self._held.over | self._prepares.over,
        )

    # --- the threads that prepare ---

    def _has_left(self, id_: int) -> bool:
        with self._lock:
            return self._coming.get(id_, False)

    def _tell(self, answer: m.Tokenized | m.Detokenized) -> None:
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
            [m.Hello(m.PROTOCOL, self._process.pid, versions, working_set(mx.device_info()))]
        )
        engine = self._engine = self._load()
        # What is loaded stays; to look it all over again would hold every stream up for 50 ms.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH)
        bound = TextBound(self._tokenizer, engine.context_length)
        self._preparation.start(Tools(self._tokenizer, self._constraints, bound, self._offers))
        try:
            self._say(engine, [])
            while True:
                self._take_jobs(engine)
                if engine.active:
                    with self._held.by("prefill" if engine.reads else "decode"):
                        said = engine.step()
                    self._say(engine, said)
        except Exception as error:  # noqa: BLE001  (whatever it is, nothing computed is to leave)
            end_process(error)

    def _load(self) -> Engine:
        load = self._loads.get()
        set_title(load.model)
        folder = Path(load.path)
        before = folder_state(folder)
        try:
            model, self._tokenizer, context = read_model(
                folder,
                on_progress=self._progress,
                chat_template=load.chat_template,
                context_length=load.context_length,
            )
            self._offers = ToolOffers(self._tokenizer, load.tools)
            self._constraints = Constraints(self._tokenizer)
            texts = threading.Thread(target=self._prepare_texts, name="texts")
            texts.start()  # it holds the interpreter for a while: no stream runs yet
            kv = measure(model)
            engine = Engine(
                model,
                self._tokenizer,
                context_length=context or most_tokens(kv, load.kv_bytes),
                max_concurrency=load.max_concurrency,
                cache_bytes=load.cache_bytes,
                kv=kv,
                kv_bytes=load.kv_bytes,
                prefill_pause=load.prefill_pause,
                on_encoded=self._on_encoded,
            )
            configured = (load.chat_template or "", load.tools) if _differs(load) else ()
            weights = model_identity(folder, model, configured)
            check_unchanged(folder, before)
            self._code.check_unchanged()
        except Exception as error:
            # What is missing from a folder that is being replaced may be there at the next try.
            permanent = isinstance(error, PERMANENT) and folder_state(folder) == before
            self._pipe.send([m.LoadFailed(str(error) or type(error).__name__, permanent)])
            raise
        texts.join()
        facts = m.Loaded(context, weight_bytes(model), engine.unbatched, kv, weights)
        self._pipe.send([facts])
        return engine

    def _prepare_texts(self) -> None:
        """Make what the first request would wait for: grammars' vocabulary, the template's rules.

        Not the bound of long texts: of a large vocabulary it takes a start 0.1 s and more, and only
        a text with more characters than the context has tokens asks for it.
        """
        self._constraints.prepare()
        rules_of(self._tokenizer)

    def _progress(self, done: int, total: int) -> None:
        self._pipe.send([m.LoadProgress(done, total)])

    def _take_jobs(self, engine: Engine) -> None:
        """Everything that waits; with nothing to decode, wait for something."""
        while not self._jobs.empty() or not engine.active:
            job = self._jobs.get()
            with self._held.by("admit"):
                said = self._answer(engine, job)
            self._say(engine, said)

    def _answer(self, engine: Engine, job: _Job) -> list[m.Message]:
        match job:
            case Ready():
                return self._admit(engine, job)
            case ReadyToWarm():
                return self._warm(engine, job)
            case Refused():
                return [self._last_word(job.id, job.error, job.request_id)]
            case Left():
                self._arrived(job.id)
                return [m.Done(job.id, "cancelled", 0, "")]
            case m.Cancel():
                done = engine.cancel(job.id)
                return [done] if done else []
            case m.ClearCache():
                engine.clear_cache()
            case m.TrimCache():
                engine.trim_cache(job.nbytes)
        return [m.Cleared(job.id)]

    def _admit(self, engine: Engine, job: Ready) -> list[m.Message]:
        id_, request_id = job.message.id, job.message.request_id
        log.debug(Entry("taken in", request_id=request_id, tokens=len(job.prompt.tokens)))
        if self._arrived(id_):
            return [m.Done(id_, "cancelled", 0, "")]
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
            return [self._last_word(id_, error, request_id)]
        if job.offer.notice:
            self._notices[id_] = job.offer.notice
        return [begun] if begun else []

    def _warm(self, engine: Engine, job: ReadyToWarm) -> list[m.Message]:
        try:
            warmed = engine.admit_warm(job.message.id, job.head, job.message.system_prompt)
        except WorkerError as error:
            return [self._last_word(job.message.id, error, "")]
        return [warmed] if warmed else []

    def _arrived(self, id_: int) -> bool:
        """It is on its way no longer; had its client left?"""
        with self._lock:
            return self._coming.pop(id_, False)

    def _last_word(self, id_: int, error: BaseException, request_id: str) -> m.Failed:
        self._arrived(id_)
        _note(error, request_id)
        # A template may quote what is no text; a frame that cannot be made would end the process.
        message = sayable(str(error)) or type(error).__name__
        if isinstance(error, ContextLengthExceeded):
            return m.Failed(id_, error.code, message, error.param, error.tokens, error.context)
        if isinstance(error, WorkerError) and error.code in CHILD_CODES:
            return m.Failed(id_, error.code, message, error.param and sayable(error.param))
        return m.Failed(id_, WorkerError.code, message)

    # --- out ---

    def _say(self, engine: Engine, messages: list[Any]) -> None:
        """Have all of it sent in one frame, with the cache's state where that changed.

        On a GPU mlx may raise an error one step late. So the frame leaves in the next step, when
        the device has been given more work and has raised nothing; where no step follows, at once
        after the same question.
        """
        if self._notices:
            messages = [self._with_notice(message) for message in messages]
        facts = engine.cache.facts
        if facts is not self._told:
            self._told = facts
            messages = [*messages, _cache_state(facts)]
        self._unconfirmed += messages
        if not engine.is_unconfirmed:
            engine.confirm()
            self._send_confirmed(engine)

    def _on_encoded(self) -> None:
        """Let go of what was said before the device was given the step that is on its way."""
        if self._unconfirmed and self._engine is not None:
            self._send_confirmed(self._engine)

    def _send_confirmed(self, engine: Engine) -> None:
        confirmed, self._unconfirmed = self._unconfirmed, []
        self._outbox.put(confirmed, goes_on=not engine.reads and self._jobs.empty())

    def _with_notice(self, message: Any) -> Any:
        """The last word on a generation with what its caller is to be told."""
        if isinstance(message, m.Done | m.Failed):
            notice = self._notices.pop(message.id, "")
            if notice and isinstance(message, m.Done):
                return replace(message, spans=[*message.spans, m.Notice(notice)])
        return message


def _differs(load: m.Load) -> bool:
    """Does the configuration change what the folder alone would make of a prompt?"""
    return load.chat_template is not None or load.tools != "refuse"


def _note(error: BaseException, request_id: str) -> None:
    """Where it comes from, but not what it says: that may be the prompt's own words."""
    if isinstance(error, WorkerError):
        log.debug(Entry("refused", request_id=request_id, error=error.code))
        return
    where = frames_of(error)
    log.error(Entry("failed", request_id=request_id, error=type(error).__name__, frames=where))


def _cache_state(facts: CacheFacts) -> m.CacheState:
    return m.CacheState(
        tokens=facts.tokens,
        system_prompt_hash=facts.system_prompt_hash,
        last_updated=facts.last_updated,
        entries=facts.entries,
        warmed=facts.warmed,
        bytes=facts.nbytes,
        capacity=facts.capacity,
    )
