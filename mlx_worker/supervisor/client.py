"""What can be asked of a model: generations, tokens, and prompts kept in its cache.

A request to a model that is not loaded starts the model and waits for it.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from mlx_worker.errors import (
    ChildLost,
    InvalidRequest,
    MemoryFull,
    ModelLoading,
    RequestTimedOut,
    WorkerError,
)
from mlx_worker.logs import Entry
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.generation import Generation, never
from mlx_worker.supervisor.requests.unary import UnaryAnswer, UnaryCall
from mlx_worker.supervisor.warm_prompts import WarmPrompt
from mlx_worker.wire.prompt_cache import ClearCache, PromptWarmed, Warm
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.supervisor.background import BackgroundTasks
    from mlx_worker.supervisor.drain import Drain
    from mlx_worker.supervisor.memory.pressure import Pressure
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
    from mlx_worker.supervisor.starter import Starter
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.request import ChatRequest

log = logging.getLogger(__name__)

NOT_STOPPED = tuple(state for state in State if state is not State.STOPPED)


class ModelClient:
    """Sends requests to the models of one node, or raises why a request is refused."""

    def __init__(
        self,
        *,
        starter: Starter,
        pressure: Pressure,
        drain: Drain,
        resume: ResumePolicy,
        ids: Iterator[int],
        pause: PauseDetector,
        background: BackgroundTasks,
    ) -> None:
        self._starter = starter
        self._pressure = pressure
        self._drain = drain
        self._resume = resume
        self._ids = ids
        self._pause = pause
        self._background = background
        self._loop = asyncio.get_running_loop()

    # --- may a request be taken on? ---

    def ensure_started(self, model: ModelRuntime) -> None:
        """Start a model that is not loaded, unless node or model take no more work."""
        if self._can_be_started(model):
            self._starter.ensure_started(model)

    def _can_be_started(self, model: ModelRuntime) -> bool:
        return model.is_unloaded and not model.is_going_away

    def refusal_for(self, model: ModelRuntime, until: float) -> WorkerError | None:
        """Return why a request cannot be taken on; None if it can.

        A model that is starting, or waits for memory, refuses nothing before `until` on the loop's
        clock: the request may wait for it.
        """
        refusal = self._drain.refusal() or model.retired_by or self._pressure.refusal()
        if refusal is not None:
            return refusal
        refusal = model.refusal()
        may_wait = self._loop.time() < until
        if may_wait and isinstance(refusal, ModelLoading | MemoryFull):
            return None
        return refusal

    def _raise_refusal(self, model: ModelRuntime, until: float = 0.0) -> None:
        self.ensure_started(model)
        if (refusal := self.refusal_for(model, until)) is not None:
            raise refusal

    # --- generations ---

    async def generate(
        self,
        model: ModelRuntime,
        request: ChatRequest,
        session: str = "",
        request_id: str = "",
        key: str = "",
        is_patient: Callable[[], bool] = never,
        conversation: str = "",
    ) -> Generation:
        """Take a request on, once it has a place. Raises the refusal if it cannot be taken on.

        A model that is starting may take `load_wait`; a request that was taken on waits for it.
        `session` is the caller's own name for its conversation, "" for none; `request_id` is the
        name in the log, `key` the name of the API key. `is_patient` returns True once the client
        knows that its request waits: from then on `load_wait` counts from the last progress.
        `conversation` names the conversation among those of all keys; "" where the session is none.
        """
        began = self._loop.time()
        limit = model.config.request_timeout
        await self._wait_for_memory()
        until = self._pause.after_last_pause(began) + self._resume.load_wait
        self._raise_refusal(model, until)
        try:
            async with self._pause.timeout(limit):
                await model.admission.take_slot(session, key)
        except TimeoutError:
            raise _timed_out(model) from None
        began = self._pause.after_last_pause(began)
        until = (self._loop.time() if is_patient() else began) + self._resume.load_wait
        try:
            self._raise_refusal(model, until)
        except BaseException:
            model.admission.release_slot()
            raise
        generation = Generation(
            request,
            conversation,
            model.dispatcher,
            keepalive_interval=self._resume.keepalive_interval,
            request_id=request_id,
            is_patient=is_patient,
        )
        if limit is not None:
            rest = began + limit - self._loop.time()
            on_deadline = model.dispatcher.abort
            generation.deadline = self._pause.timer(
                rest, on_deadline, generation, _timed_out(model)
            )
        model.dispatcher.submit(generation, until)
        return generation

    async def _wait_for_memory(self) -> None:
        """Wait for memory that models are about to return, as for a model that loads."""
        if self._pressure.refusal() is not None:
            with contextlib.suppress(TimeoutError):
                async with self._pause.timeout(self._resume.load_wait):
                    await self._pressure.wait_until_accepting()

    # --- the prompt cache ---

    async def warm(self, model: ModelRuntime, system_prompt: str) -> WarmPrompt:
        """Prefill a system prompt and keep it, once the model is loaded.

        The work goes on when the caller hangs up. Raises the error that prevented it.
        """
        return await asyncio.shield(self._background.run(self._warm(model, system_prompt)))

    async def warm_all(self, model: ModelRuntime) -> None:
        """Warm, in a new process, the prompts that are to be resident."""
        async for prompt in model.warm_set.prompts():
            id_ = model.config.id
            try:
                warmed = await self._warm(model, prompt)
            except WorkerError as error:
                log.warning(Entry("prompt not warmed", model=id_, why=str(error)))
            else:
                log.info(Entry("prompt warmed", model=id_, tokens=warmed.tokens))

    async def clear(self, model: ModelRuntime) -> bool:
        """Drop a child's cached prompts, in memory and on disk; return True if a child has done so.

        A child that does not run, or dies, has none in memory.
        """
        model.warm_set.clear()
        if model.child.serving:
            self._drain.raise_if_active()
            with contextlib.suppress(ChildLost):
                await self._call(model, ClearCache)
                return True
        return False

    async def _warm(self, model: ModelRuntime, system_prompt: str) -> WarmPrompt:
        try:
            warmed = await self._warm_once(model, system_prompt)
        except ChildLost:
            warmed = await self._warm_once(model, system_prompt)
        if system_prompt:
            model.warm_set.warmed(system_prompt)
        digest = hashlib.sha256(system_prompt.encode()).hexdigest()
        return WarmPrompt(digest, warmed.tokens, time.time() * 1000)

    async def _warm_once(self, model: ModelRuntime, system_prompt: str) -> PromptWarmed:
        kwargs = model.config.chat_template_kwargs
        with model.in_use():
            await self._wait_until_settled(model)
            self._raise_refusal(model)
            message = partial(Warm, system_prompt=system_prompt, template_kwargs=kwargs)
            warmed = await self._call(model, message)
        assert isinstance(warmed, PromptWarmed)
        return warmed

    # --- tokens ---

    async def tokenize(self, model: ModelRuntime, request: ChatRequest) -> TokenizeResult:
        """Return the tokens that the model would read. Raises the refusal."""
        answer = await self._ask_twice(model, partial(Tokenize, request=request))
        assert isinstance(answer, TokenizeResult)
        return answer

    async def detokenize(self, model: ModelRuntime, tokens: list[int]) -> DetokenizeResult:
        """Return the text of tokens. Raises the refusal."""
        answer = await self._ask_twice(model, partial(Detokenize, tokens=tokens))
        assert isinstance(answer, DetokenizeResult)
        return answer

    async def _ask_twice(
        self, model: ModelRuntime, message: Callable[[int], WireMessage]
    ) -> UnaryAnswer:
        """Ask the child beside its work; ask its next process if it dies of other things."""
        try:
            return await self._ask(model, message)
        except ChildLost:
            return await self._ask(model, message)

    async def _ask(self, model: ModelRuntime, message: Callable[[int], WireMessage]) -> UnaryAnswer:
        self._drain.raise_if_active()
        with model.in_use():
            with contextlib.suppress(TimeoutError):
                async with self._pause.timeout(self._resume.load_wait):
                    await self._wait_until_settled(model)
            self._raise_refusal(model)
            id_ = next(self._ids)
            try:
                return await self._answer(model, id_, message)
            except asyncio.CancelledError:
                model.child.cancel(id_)  # the client has left
                raise
            except ValueError as error:  # the message fits no frame
                raise InvalidRequest(str(error)) from error

    # --- the child ---

    async def _call(
        self, model: ModelRuntime, message: Callable[[int], WireMessage]
    ) -> UnaryAnswer:
        return await self._answer(model, next(self._ids), message)

    async def _answer(
        self, model: ModelRuntime, id_: int, message: Callable[[int], WireMessage]
    ) -> UnaryAnswer:
        call = UnaryCall(model.dispatcher.suspect)
        model.child.open(id_, call, message(id_))
        return await call.answer

    async def _wait_until_settled(self, model: ModelRuntime) -> None:
        """Wait for a child that is starting; start it first if it is stopped."""
        child = model.child
        if self._can_be_started(model):
            self._starter.ensure_started(model)
            if isinstance(model.start_blocked_by, MemoryFull | ModelLoading):
                with contextlib.suppress(TimeoutError):
                    async with self._pause.timeout(self._resume.timeout):
                        await child.reached(*NOT_STOPPED)
        await child.wait_until_settled()


def _timed_out(model: ModelRuntime) -> RequestTimedOut:
    id_, limit = model.config.id, model.config.request_timeout
    return RequestTimedOut(f"not done in {limit:g} s, the request_timeout of model {id_!r}")
