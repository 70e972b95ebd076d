"""All children of the node: who there is, who can serve, and how they end together. [front]"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mlx_worker.errors import (
    ChildLost,
    InvalidRequest,
    ModelLoading,
    NodeDraining,
    UnknownModel,
    WorkerError,
)
from mlx_worker.supervisor.admission import Admission
from mlx_worker.supervisor.child import Child
from mlx_worker.supervisor.dispatch import Dispatch
from mlx_worker.supervisor.fingerprint import fingerprint
from mlx_worker.supervisor.generation import Generation, as_error
from mlx_worker.supervisor.lifecycle import Lifecycle
from mlx_worker.supervisor.restart import RestartWindow
from mlx_worker.supervisor.standby import Standby
from mlx_worker.supervisor.states import State
from mlx_worker.supervisor.warm_set import WarmSet
from mlx_worker.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from mlx_worker.config import ModelConfig
    from mlx_worker.plan import PlannedModel
    from mlx_worker.supervisor.lifecycle import Timings
    from mlx_worker.supervisor.link import Told
    from mlx_worker.supervisor.restart import RestartPolicy
    from mlx_worker.supervisor.resume import ResumePolicy
    from mlx_worker.supervisor.standby import StandbyPolicy

log = logging.getLogger(__name__)

T = TypeVar("T")
Answer = m.Warmed | m.Cleared | m.Tokenized | m.Detokenized


class Call:
    """A listener for what has one answer: warm, clear, tokenize."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def hear(self, message: Told) -> None:
        """Keep the last word."""
        if self.answer.done():
            return
        match message:
            case m.Warmed() | m.Cleared() | m.Tokenized() | m.Detokenized():
                self.answer.set_result(message)
            case m.Failed():
                self.answer.set_exception(as_error(message))
                self.answer.exception()  # a caller may have left
            case _:
                pass


@dataclass(frozen=True, slots=True)
class WarmPrompt:
    """A system prompt that is resident: SHA-256 hex, tokens, when (ms since the epoch)."""

    digest: str
    tokens: int
    at: float


class Served:
    """One configured model: its settings, its child, its places, its generations.

    `context_length` in tokens is what the folder and the configuration say before it is loaded.
    """

    def __init__(
        self,
        config: ModelConfig,
        child: Child,
        context_length: int | None,
        ids: Iterator[int],
        resume: ResumePolicy,
    ) -> None:
        self.config = config
        self.child = child
        self.context_length = context_length
        self.admission = Admission(config.id, config.max_concurrency, config.max_queue)
        self.warm_set = WarmSet(config.warm)
        self.dispatch = Dispatch(child, ids, resume, self.admission.leave)

    @property
    def fingerprint(self) -> str:
        """The weights and versions that answer now."""
        return fingerprint(self.child.facts)


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
        command: Sequence[str],
    ) -> None:
        self._timings = timings
        self._policy = policy
        self._resume = resume
        self.standby = Standby(command, standby, self._restarts(), self._is_busy)
        self._ids = itertools.count(1)
        self._background: set[asyncio.Task[Any]] = set()
        self._hurry = asyncio.Event()
        self.draining = False
        self.models = {it.config.id: self._serve(it) for it in planned}
        self._aliases = {alias: it.config.id for it in planned for alias in it.config.aliases}
        self._default = next((it.config.id for it in planned if it.config.default), None)

    def _serve(self, planned: PlannedModel) -> Served:
        model = planned.config
        load = m.Load(
            model=model.id,
            path=str(planned.folder.path),
            max_concurrency=model.max_concurrency,
            context_length=model.context_length,
            cache_bytes=model.cache_bytes,
            prefill_pause=model.prefill_pause,
        )
        child = Child(
            load,
            Lifecycle(self._timings, self._restarts()),
            self._timings,
            launch=self.standby.launch,
            on_entered=lambda state: self._entered(model.id, state),
            on_progress=lambda: self._progressed(model.id),
        )
        return Served(model, child, planned.context_length, self._ids, self._resume)

    def _restarts(self) -> RestartWindow:
        return RestartWindow(self._policy, random.Random())  # noqa: S311  (no secret: jitter)

    def _is_busy(self) -> bool:
        """Is a child on its way up, or about to be?"""
        coming = (State.STARTING, State.LOADING, State.STOPPING, State.KILLING)
        return any(served.child.state in coming for served in self.models.values())

    def _progressed(self, model: str) -> None:
        self.models[model].dispatch.progressed()

    def _entered(self, model: str, state: State) -> None:
        served = self.models[model]
        self.standby.stirred()
        served.dispatch.entered(state)
        if state is State.READY and served.warm_set:
            self._in_background(self._warm_again(served))

    # --- life ---

    def start(self) -> None:
        """Ask every preloaded model to start; returns at once."""
        for served in self.models.values():
            if served.config.preload:
                served.child.start()

    async def stop(self) -> None:
        """No new work; running generations finish within the drain deadline; children end.

        A child that dies in this time comes back for what it was doing, as at any other.
        """
        self.draining = True
        await self._drain()
        await self.standby.close()
        children = [served.child for served in reversed(self.models.values())]
        for child in children:
            child.stop()
            child.hurry()
        for child in children:
            await child.reached(State.STOPPED, State.FAILED)
            await child.close()
        for task in self._background:
            task.cancel()

    async def _drain(self) -> None:
        either: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._all_have_ended()),
            asyncio.create_task(self._hurry.wait()),
        }
        await asyncio.wait(either, timeout=self._timings.drain, return_when=asyncio.FIRST_COMPLETED)
        for task in either:
            task.cancel()
        await asyncio.wait(either)

    async def _all_have_ended(self) -> None:
        await asyncio.gather(*(it.dispatch.drain() for it in self.models.values()))

    def hurry(self) -> None:
        """End a drain now: what still runs is cut off."""
        self._hurry.set()

    def restart(self, served: Served) -> None:
        """A new process for this model; what runs may finish first, and what cannot goes on in it.

        Starts a model that was given up. Raises NodeDraining.
        """
        self._refuse_if_draining()
        served.child.restart()

    # --- work ---

    @property
    def primary(self) -> Served:
        """Who is meant where nobody is named: the default model, else the first."""
        return self.models[self._default or next(iter(self.models))]

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
            names = ", ".join(self.models)
            raise UnknownModel(f"no model is named {name!r}; this node has: {names}", param="model")
        return known

    async def generate(
        self, served: Served, request: m.ChatRequest, session: str = ""
    ) -> Generation:
        """Take a request on, waiting for a place. Raises the refusal if it cannot be.

        A model that is on its way may take `load_wait` to come; what was taken on waits for it.
        `session` is the caller's own name for its conversation, "" where it gave none.
        """
        until = asyncio.get_running_loop().time() + self._resume.load_wait
        self._check(served, until)
        await served.admission.enter()
        try:
            self._check(served, until)
        except BaseException:
            served.admission.leave()
            raise
        generation = Generation(
            request, session, served.dispatch, sign_every=self._resume.sign_every
        )
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
        digest = hashlib.sha256(system_prompt.encode()).hexdigest() if system_prompt else ""
        return WarmPrompt(digest, warmed.tokens, time.time() * 1000)

    async def _warm_once(self, served: Served, system_prompt: str) -> m.Warmed:
        await self._until_settled(served.child)
        self._check(served, until=0.0)
        id_ = next(self._ids)
        warmed = await self._call(served, id_, m.Warm(id_, system_prompt))
        assert isinstance(warmed, m.Warmed)
        return warmed

    async def clear(self, served: Served) -> None:
        """Forget a child's cached prompts. A child that does not run, or dies, has none."""
        served.warm_set.clear()
        if served.child.serving:
            self._refuse_if_draining()
            id_ = next(self._ids)
            with contextlib.suppress(ChildLost):
                await self._call(served, id_, m.ClearCache(id_))

    async def tokenize(self, served: Served, request: m.ChatRequest) -> list[int]:
        """The tokens that the model would read. Raises the refusal."""
        said = await self._asked_twice(served, partial(m.Tokenize, request=request))
        assert isinstance(said, m.Tokenized)
        return said.tokens

    async def detokenize(self, served: Served, tokens: list[int]) -> str:
        """The text of tokens. Raises the refusal."""
        said = await self._asked_twice(served, partial(m.Detokenize, tokens=tokens))
        assert isinstance(said, m.Detokenized)
        return said.text

    async def _asked_twice(self, served: Served, message: Callable[[int], m.Message]) -> Answer:
        """Ask the child beside its work, and the next one where it dies of other things."""
        try:
            return await self._asked(served, message)
        except ChildLost:
            return await self._asked(served, message)

    async def _asked(self, served: Served, message: Callable[[int], m.Message]) -> Answer:
        self._refuse_if_draining()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._resume.load_wait):
                await self._until_settled(served.child)
        self._check(served, until=0.0)
        id_ = next(self._ids)
        try:
            return await self._call(served, id_, message(id_))
        except ValueError as error:  # it fits no frame
            raise InvalidRequest(str(error)) from error

    async def _call(self, served: Served, id_: int, message: m.Message) -> Answer:
        call = Call()
        served.child.open(id_, call, message)
        return await call.answer

    async def _until_settled(self, child: Child) -> None:
        """Wait for a child that is on its way, sending it there first where it is stopped."""
        if child.state is State.STOPPED and not self.draining:
            child.start()
            await child.has_left(State.STOPPED)
        await child.settled()

    def _refuse_if_draining(self) -> None:
        if self.draining:
            raise NodeDraining("the node is draining and takes no new work", retry_after=5)

    def _check(self, served: Served, until: float) -> None:
        """Raise why a request cannot be taken on; until then it may wait for the model to come."""
        self._refuse_if_draining()
        if served.child.state is State.STOPPED:
            served.child.start()  # on demand
        refusal = served.child.refusal()
        in_time = asyncio.get_running_loop().time() < until
        if refusal is not None and not (isinstance(refusal, ModelLoading) and in_time):
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
            log.warning("%s", error)

    async def _warm_again(self, served: Served) -> None:
        async for prompt in served.warm_set.prompts():
            try:
                warmed = await self._warm(served, prompt)
            except WorkerError as error:
                log.warning("%s: a prompt was not warmed: %s", served.config.id, error)
            else:
                log.info("%s: a prompt warmed, %d tokens", served.config.id, warmed.tokens)
