"""All children of the node: who there is, who can serve, and how they end together. [front]"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import random
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mlx_worker.errors import (
    ChildLost,
    InvalidRequest,
    MemoryFull,
    ModelBusy,
    ModelLoading,
    NodeDraining,
    RequestTimedOut,
    UnknownModel,
    WorkerError,
)
from mlx_worker.logs import Entry
from mlx_worker.supervisor.config_diff import Changes, compare, load_of, with_known_folders
from mlx_worker.supervisor.event_log import Events
from mlx_worker.supervisor.fingerprint import own_code
from mlx_worker.supervisor.memory.idle import IdleTimer
from mlx_worker.supervisor.memory.placement import Room, expected_bytes, tenant_of
from mlx_worker.supervisor.memory.policy import kv_budget
from mlx_worker.supervisor.memory.pressure import Pressure
from mlx_worker.supervisor.process.child import Child
from mlx_worker.supervisor.process.lifecycle import Lifecycle
from mlx_worker.supervisor.process.pause import PauseDetector, tick_for
from mlx_worker.supervisor.process.restart_policy import RestartWindow
from mlx_worker.supervisor.process.spares import Standby
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.admission import Admission
from mlx_worker.supervisor.requests.dispatcher import Dispatch
from mlx_worker.supervisor.requests.generation import Generation
from mlx_worker.supervisor.requests.unary import Answer, Call
from mlx_worker.supervisor.starter import Starter
from mlx_worker.supervisor.warm_prompts import WarmSet
from mlx_worker.wire.messages import (
    ClearCache,
    Detokenize,
    DetokenizeResult,
    PromptWarmed,
    Tokenize,
    TokenizeResult,
    TrimCache,
    Warm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.models.folder import ModelFolder
    from mlx_worker.models.resolve import PlannedModel
    from mlx_worker.supervisor.process.launcher import Launcher
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.restart_policy import RestartPolicy
    from mlx_worker.supervisor.process.spares import StandbyPolicy
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
    from mlx_worker.supervisor.starter import FolderAccess
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.request import ChatRequest

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WarmPrompt:
    """A system prompt that is resident: SHA-256 hex, tokens, when (ms since the epoch)."""

    digest: str
    tokens: int
    at: float


class Served:
    """One configured model: its settings, its child, its places, its generations.

    `on_end` is told of each generation's end. A `retired` one is in the configuration no more.
    """

    def __init__(
        self,
        planned: PlannedModel,
        child: Child,
        ids: Iterator[int],
        resume: ResumePolicy,
        pause: PauseDetector,
        on_end: Callable[[], None],
        events: Events,
    ) -> None:
        config = planned.config
        self.planned = planned
        self.child = child
        self.retired = False
        self._calls = 0
        self._on_end = on_end
        self._events = events
        self.admission = Admission(config.id, config.max_concurrency, config.max_queue)
        self.warm_set = WarmSet(config.warm)
        self.dispatch = Dispatch(child, ids, resume, pause, self._ended, events)
        self.idle = IdleTimer(config.idle_timeout, child.unload)

    @property
    def config(self) -> ModelConfig:
        """What the configuration says of it."""
        return self.planned.config

    @property
    def context_length(self) -> int | None:
        """In tokens, as folder and configuration say before it is loaded."""
        return self.planned.context_length

    @property
    def expected_bytes(self) -> int:
        """What its process will take, before it was ever measured."""
        return expected_bytes(self.planned)

    def follow(self, planned: PlannedModel) -> None:
        """Go by other settings; what only a process goes by counts from the next one on."""
        config = planned.config
        if load_of(planned) != load_of(self.planned):
            self.child.load = load_of(planned)
            self.child.at_start = None
        self.planned = planned
        self.admission.resize(config.max_concurrency, config.max_queue)
        self.warm_set.files = config.warm
        self.idle.after = config.idle_timeout
        self.idle.used()

    def found(self, folder: ModelFolder) -> None:
        """Record what was found in the model's folder."""
        if folder != self.planned.folder:
            self.planned = replace(self.planned, folder=folder)
            for warning in self.planned.warnings:
                self._events.happened(
                    "folder", self.config.id, level=logging.WARNING, warning=warning
                )
            kv_bytes = self.child.load.kv_bytes
            self.child.load = msgspec.structs.replace(load_of(self.planned), kv_bytes=kv_bytes)

    @property
    def running_kv_bytes(self) -> int:
        """What its running rows take, by their tokens; what shares a prefix counts each time."""
        loaded = self.child.facts.loaded
        return sum(map(loaded.kv.nbytes, self.dispatch.kv_tokens)) if loaded else 0

    @property
    def kv_usage(self) -> float:
        """The same as a share of what they may take, 0 to 1."""
        budget = min(self.child.load.kv_bytes, self.child.load.cache_bytes)
        return min(1.0, self.running_kv_bytes / budget) if budget else 1.0

    @property
    def is_busy(self) -> bool:
        """Does anybody need the model just now?"""
        admission = self.admission
        at_work = self.child.open_ids or self.dispatch.is_busy
        return bool(at_work or admission.running or admission.queued or self._calls)

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """Count as use what is no generation, from its wait for the model to its end."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self.idle.used()
            self._on_end()

    def _ended(self, generation: Generation) -> None:
        self.admission.leave(generation.age)
        self.idle.used()
        self._on_end()


class Node:
    """The children by model, in the order of the configuration."""

    def __init__(
        self,
        planned: Sequence[PlannedModel],
        *,
        timings: Timings,
        policy: RestartPolicy,
        resume: ResumePolicy,
        standby: StandbyPolicy,
        memory_limit: int,
        launcher: Launcher,
        folders: FolderAccess,
    ) -> None:
        own_code()  # of now, before anything can be replaced on the disk
        self._timings = timings
        self._policy = policy
        self._resume = resume
        self._loop = asyncio.get_running_loop()
        self.events = Events()
        self._pause = PauseDetector(self._loop, tick_for(timings), self._paused)
        self.standby = Standby(launcher, standby, self._restarts(), self._is_busy, self._pause)
        self._ids = itertools.count(1)
        self._background: set[asyncio.Task[Any]] = set()
        self._hurry = asyncio.Event()
        self._watch: asyncio.TimerHandle | None = None
        self.draining = False
        self.models: dict[str, Served] = {}
        self._leaving: set[Served] = set()
        self.room = Room(memory_limit, self._everybody, self.events)
        self.pressure = Pressure(memory_limit, self._everybody, self._trim, self.events)
        self.starter = Starter(folders, self.room, timings, self._limit_kv)
        self._follow(planned)

    def _everybody(self) -> list[Served]:
        return [*self.models.values(), *self._leaving]

    def _serve(self, planned: PlannedModel) -> Served:
        served: Served

        def progressed() -> None:
            served.dispatch.progressed()

        def retry() -> None:
            if not self.draining or served.is_busy:
                self.starter.retry(served)

        def take_lost() -> list[str]:
            return served.dispatch.take_lost()

        child = Child(
            load_of(planned),
            Lifecycle(self._timings, self._restarts()),
            self._timings,
            launch=lambda owner: self.standby.launch(owner, served.config.env),
            pause=self._pause,
            on_entered=lambda state: self._entered(served, state),
            on_progress=progressed,
            is_busy=lambda: served.is_busy,
            take_lost=take_lost,
            events=self.events,
            on_retry_due=retry,
        )
        served = Served(
            planned,
            child,
            self._ids,
            self._resume,
            self._pause,
            self.room.changed,
            self.events,
        )
        return served

    def _paused(self, seconds: float) -> None:
        self.events.happened("pause", seconds=round(seconds, 1))

    def _restarts(self) -> RestartWindow:
        return RestartWindow(self._policy, random.Random())  # noqa: S311  (no secret: jitter)

    def _is_busy(self) -> bool:
        """Is a child on its way up, or about to be?"""
        coming = (State.STARTING, State.LOADING, State.STOPPING, State.KILLING)
        return any(served.child.state in coming for served in self._everybody())

    def _limit_kv(self) -> None:
        """Tell each child how much its running rows may take."""
        tenants = {id_: tenant_of(it) for id_, it in self.models.items()}
        for id_, served in self.models.items():
            others = [it for other, it in tenants.items() if other != id_]
            budget = kv_budget(tenants[id_], others, self.room.limit)
            served.child.load = msgspec.structs.replace(served.child.load, kv_bytes=budget)

    def _lower_limit(self, working_set: int) -> None:
        """Let models take no more than their device recommends to hold at most."""
        if working_set >= self.room.limit:
            return
        self.events.happened(
            "memory limit", level=logging.WARNING, was=self.room.limit, working_set=working_set
        )
        self.room.limit = self.pressure.limit = working_set
        self._limit_kv()

    def _entered(self, served: Served, state: State) -> None:
        self.standby.stirred()
        if (working_set := served.child.facts.working_set) is not None:
            self._lower_limit(working_set)
        served.dispatch.entered(state)
        self.starter.entered(served, state)
        self.room.changed()
        if state is State.READY:
            served.idle.used()
            if served.warm_set:
                self._in_background(self._warm_again(served))

    # --- life ---

    def start(self) -> None:
        """Ask every preloaded model to start, the pinned first; returns at once.

        One that finds no room is started by its first request.
        """
        self._preload(self.models)
        self._look_at_memory()

    def _preload(self, models: Iterable[str]) -> None:
        pinned_first = sorted((self.models[it] for it in models), key=lambda it: not it.config.pin)
        self.starter.bring_in_order(it for it in pinned_first if it.config.preload)
        for served in pinned_first:
            if served.planned.folder is None:
                self.starter.inspect(served)

    def _look_at_memory(self) -> None:
        self.pressure.look()
        self._watch = self._loop.call_later(self._timings.ping, self._look_at_memory)

    def _trim(self, served: Served, nbytes: int) -> None:
        if served.child.serving:
            id_ = next(self._ids)
            self._in_background(self._call(served, id_, TrimCache(id_, nbytes)))

    async def stop(self) -> None:
        """No new work; running generations finish within the drain deadline; children end.

        A child that dies in this time comes back for what it was doing, as at any other.
        """
        self.draining = True
        self.events.happened("drain", within_s=self._timings.drain)
        await self._drain()
        self.starter.close()
        await self.standby.close()
        children = [served.child for served in reversed(self._everybody())]
        for child in children:
            child.stop()
            child.hurry()
        for child in children:
            await child.reached(State.STOPPED, State.FAILED)
            await child.close()
        for served in self._everybody():
            served.idle.close()
        if self._watch is not None:
            self._watch.cancel()
        self._pause.close()
        for task in self._background:
            task.cancel()

    async def _drain(self) -> None:
        either: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._all_have_ended()),
            asyncio.create_task(self._hurry.wait()),
        }
        with contextlib.suppress(TimeoutError):
            async with self._pause.timeout(self._timings.drain):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in either:
            task.cancel()
        await asyncio.wait(either)

    async def _all_have_ended(self) -> None:
        refusal = NodeDraining("the node is going away", retry_after=5)
        await asyncio.gather(*(it.dispatch.drain(refusal) for it in self._everybody()))

    def hurry(self) -> None:
        """End a drain now: what still runs is cut off."""
        self._hurry.set()

    def reload(self, planned: Sequence[PlannedModel], folders: FolderAccess) -> Changes:
        """Serve these models from now on; what runs may finish within the drain deadline first.

        Only a model whose process has to know gets a new one. A model that was given up is looked
        at again. Raises NodeDraining.
        """
        self._refuse_if_draining()
        self.starter.access = folders
        known = {id_: served.planned for id_, served in self.models.items()}
        changes = self._follow(with_known_folders(known, planned))
        for id_ in changes.restarted:
            served = self.models[id_]
            if tenant_of(served).lodged:
                served.child.restart()
            elif served.child.state is State.FAILED:
                self.starter.bring(served)
        self._preload(changes.added)
        for served in self.models.values():
            if served.child.state is State.FAILED:
                self.starter.inspect(served)
        return changes

    def _follow(self, planned: Sequence[PlannedModel]) -> Changes:
        """Have exactly these models, by these settings, in this order."""
        before, self.models = self.models, {}
        changes = compare({id_: it.planned for id_, it in before.items()}, planned)
        for it in planned:
            id_ = it.config.id
            self.models[id_] = self._serve(it) if id_ in changes.added else before[id_]
            if id_ in changes.restarted or id_ in changes.changed:
                self.models[id_].follow(it)
        self._aliases = {alias: it.config.id for it in planned for alias in it.config.aliases}
        self._default = next((it.config.id for it in planned if it.config.default), None)
        for id_ in changes.removed:
            self._leaving.add(before[id_])
            self._in_background(self._retire(before[id_]))
        self._limit_kv()
        return changes

    async def _retire(self, served: Served) -> None:
        """End a model that is served no more, as a node that drains would."""
        served.retired = True
        with contextlib.suppress(TimeoutError):
            async with self._pause.timeout(self._timings.drain):
                await served.dispatch.drain(self._removed(served))
        self.starter.forget(served)
        served.child.stop()
        served.child.hurry()
        await served.child.reached(State.STOPPED, State.FAILED)
        await served.child.close()
        served.idle.close()
        self._leaving.discard(served)
        self.room.changed()

    def restart(self, served: Served) -> None:
        """A new process for this model; what runs may finish first, and what cannot goes on in it.

        Starts a model that was given up. Raises NodeDraining, MemoryFull or ModelTooLarge.
        """
        self._refuse_if_draining()
        if tenant_of(served).lodged:
            served.child.restart()
        else:
            self._bring(served)

    def load(self, served: Served) -> None:
        """Start this model, also one that was given up; nothing happens where it runs or comes.

        Raises NodeDraining, MemoryFull or ModelTooLarge.
        """
        self._refuse_if_draining()
        if not served.child.coming_back:
            self._bring(served)

    def unload(self, served: Served) -> None:
        """End this model's process until somebody needs it. Raises NodeDraining or ModelBusy."""
        self._refuse_if_draining()
        if served.is_busy:
            raise ModelBusy(
                f"model {served.config.id!r} is at work: {served.admission.running} running, "
                f"{served.admission.queued} waiting",
                retry_after=1,
            )
        self.starter.cancel(served)
        self.room.forget(served)
        if served.child.state is State.READY:
            served.child.unload()  # which looks once more, in the step that ends it
        else:
            served.child.stop()

    def _bring(self, served: Served) -> None:
        self.starter.bring(served)
        held_back = served.child.held_back
        waits = isinstance(held_back, ModelLoading) or self.room.promised(served)
        if held_back is not None and not waits:
            raise held_back

    # --- work ---

    @property
    def all_given_up(self) -> bool:
        """Return True if every model was given up and none has come back since."""
        return all(served.child.given_up for served in self.models.values())

    @property
    def primary(self) -> Served:
        """Who is meant where nobody is named: the default model, else the first."""
        return self.models[self._default or next(iter(self.models))]

    @property
    def takes_any_name(self) -> bool:
        """Return whether an unknown name means the default model."""
        return self._default is not None

    def find(self, name: str | None) -> Served:
        """The model of that name or alias; names nobody knows go to the default model.

        Raises UnknownModel where there is none.
        """
        if name is None:
            return self.primary
        try:
            return self.named(name)
        except UnknownModel:
            if self._default is None:
                raise
            return self.primary

    def named(self, name: str) -> Served:
        """The model of that name or alias, and no other. Raises UnknownModel."""
        known = self.models.get(self._aliases.get(name, name))
        if known is None:
            raise UnknownModel.among(self.models, name)
        return known

    async def generate(
        self,
        served: Served,
        request: ChatRequest,
        session: str = "",
        request_id: str = "",
        key: str = "",
    ) -> Generation:
        """Take a request on, waiting for a place. Raises the refusal if it cannot be.

        A model that is on its way may take `load_wait` to come; what was taken on waits for it.
        `session` is the caller's own name for its conversation, "" where it gave none;
        `request_id` its name in the log, `key` the name of the API key that it came with.
        """
        began = self._loop.time()
        limit = served.config.request_timeout
        await self._until_calm()
        self._check(served, began + self._resume.load_wait)
        try:
            async with self._pause.timeout(limit):
                await served.admission.enter(session, key)
        except TimeoutError:
            raise _timed_out(served) from None
        began = self._pause.since(began)
        until = began + self._resume.load_wait
        try:
            self._check(served, until)
        except BaseException:
            served.admission.leave()
            raise
        generation = Generation(
            request,
            session,
            served.dispatch,
            sign_every=self._resume.sign_every,
            request_id=request_id,
        )
        if limit is not None:
            rest = began + limit - self._loop.time()
            overdue = served.dispatch.overdue
            generation.deadline = self._pause.timer(rest, overdue, generation, _timed_out(served))
        served.dispatch.submit(generation, until)
        return generation

    async def warm(self, served: Served, system_prompt: str) -> WarmPrompt:
        """Prefill a system prompt and keep it, once the model is there.

        Goes on when the caller hangs up. Raises what kept it from being done.
        """
        return await asyncio.shield(self._in_background(self._warm(served, system_prompt)))

    async def _warm(self, served: Served, system_prompt: str) -> WarmPrompt:
        try:
            warmed = await self._warm_once(served, system_prompt)
        except ChildLost:
            warmed = await self._warm_once(served, system_prompt)
        if system_prompt:
            served.warm_set.warmed(system_prompt)
        digest = hashlib.sha256(system_prompt.encode()).hexdigest()
        return WarmPrompt(digest, warmed.tokens, time.time() * 1000)

    async def _warm_once(self, served: Served, system_prompt: str) -> PromptWarmed:
        with served.needed():
            await self._until_settled(served)
            self._check(served, until=0.0)
            id_ = next(self._ids)
            warmed = await self._call(
                served, id_, Warm(id_, system_prompt, served.config.chat_template_kwargs)
            )
        assert isinstance(warmed, PromptWarmed)
        return warmed

    async def clear(self, served: Served) -> None:
        """Forget a child's cached prompts. A child that does not run, or dies, has none."""
        served.warm_set.clear()
        if served.child.serving:
            self._refuse_if_draining()
            id_ = next(self._ids)
            with contextlib.suppress(ChildLost):
                await self._call(served, id_, ClearCache(id_))

    async def tokenize(self, served: Served, request: ChatRequest) -> TokenizeResult:
        """Return the tokens that the model would read. Raises the refusal."""
        said = await self._asked_twice(served, partial(Tokenize, request=request))
        assert isinstance(said, TokenizeResult)
        return said

    async def detokenize(self, served: Served, tokens: list[int]) -> DetokenizeResult:
        """Return the text of tokens. Raises the refusal."""
        said = await self._asked_twice(served, partial(Detokenize, tokens=tokens))
        assert isinstance(said, DetokenizeResult)
        return said

    async def _asked_twice(self, served: Served, message: Callable[[int], WireMessage]) -> Answer:
        """Ask the child beside its work, and the next one where it dies of other things."""
        try:
            return await self._asked(served, message)
        except ChildLost:
            return await self._asked(served, message)

    async def _asked(self, served: Served, message: Callable[[int], WireMessage]) -> Answer:
        self._refuse_if_draining()
        with served.needed():
            with contextlib.suppress(TimeoutError):
                async with self._pause.timeout(self._resume.load_wait):
                    await self._until_settled(served)
            self._check(served, until=0.0)
            id_ = next(self._ids)
            try:
                return await self._call(served, id_, message(id_))
            except asyncio.CancelledError:
                served.child.cancel(id_)  # its client has left
                raise
            except ValueError as error:  # it fits no frame
                raise InvalidRequest(str(error)) from error

    async def _call(self, served: Served, id_: int, message: WireMessage) -> Answer:
        call = Call()
        served.child.open(id_, call, message)
        return await call.answer

    async def _until_settled(self, served: Served) -> None:
        """Wait for a child that is on its way, sending it there first where it is stopped."""
        child = served.child
        if _is_unloaded(child) and not self.draining:
            self.starter.bring(served)
            if isinstance(child.held_back, MemoryFull | ModelLoading):
                with contextlib.suppress(TimeoutError):
                    async with self._pause.timeout(self._resume.timeout):
                        await child.reached(*(it for it in State if it is not State.STOPPED))
        await child.settled()

    async def _until_calm(self) -> None:
        """Wait for memory that models are about to give back, as for a model that loads."""
        if self.pressure.refusal() is not None:
            with contextlib.suppress(TimeoutError):
                async with self._pause.timeout(self._resume.load_wait):
                    await self.pressure.has_room()

    def _refuse_if_draining(self) -> None:
        if self.draining:
            raise NodeDraining("the node is draining and takes no new work", retry_after=5)

    def _removed(self, served: Served) -> WorkerError:
        """Return why a model that a reload took away takes no work any more."""
        id_ = served.config.id
        if id_ in self.models:
            return ModelLoading(f"model {id_!r} was replaced by another folder", retry_after=1)
        return UnknownModel(f"model {id_!r} was removed from the configuration", param="model")

    def _check(self, served: Served, until: float) -> None:
        """Raise why a request cannot be taken on; until then it may wait for the model to come."""
        self._refuse_if_draining()
        if served.retired:
            raise self._removed(served)
        if _is_unloaded(served.child):
            self.starter.bring(served)  # on demand
        if (too_much := self.pressure.refusal()) is not None:
            raise too_much
        refusal = served.child.refusal()
        in_time = asyncio.get_running_loop().time() < until
        if refusal is not None and not (isinstance(refusal, ModelLoading | MemoryFull) and in_time):
            raise refusal

    # --- beside the requests ---

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever still waits for it is told too; a caller that hung up is not.
            log.warning(Entry("background work failed", error=str(error)))

    async def _warm_again(self, served: Served) -> None:
        async for prompt in served.warm_set.prompts():
            try:
                warmed = await self._warm(served, prompt)
            except WorkerError as error:
                model = served.config.id
                log.warning(Entry("prompt not warmed", model=model, why=str(error)))
            else:
                log.info(Entry("prompt warmed", model=served.config.id, tokens=warmed.tokens))


def _timed_out(served: Served) -> RequestTimedOut:
    model, limit = served.config.id, served.config.request_timeout
    return RequestTimedOut(f"not done in {limit:g} s, the request_timeout of model {model!r}")


def _is_unloaded(child: Child) -> bool:
    """It ends, or has ended, because nobody needed it."""
    return not child.coming_back and child.state is not State.FAILED
