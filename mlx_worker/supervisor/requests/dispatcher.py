"""Between the generations of one model and its child: who is in its hands, who waits for it.

A generation that was accepted stays here until its end, however many processes that takes. It is
handed over when the child serves; when the child dies it waits for the next one and is handed over
again under a new wire id, with the token ids its client already has. Time limits run only while
there is no child to hand it to. [front]
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import (
    ChildLost,
    InvalidRequest,
    ModelLoading,
    NodeDraining,
    PoisonedRequest,
    WorkerError,
)
from mlx_worker.histogram import CRASH_TO_TOKEN, Histogram
from mlx_worker.supervisor.fingerprint import identity_of, weights_changed
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.resume_policy import is_poison, may_start
from mlx_worker.wire.messages import Generate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlx_worker.supervisor.event_log import Events
    from mlx_worker.supervisor.process.child import Child
    from mlx_worker.supervisor.process.pause import PauseDetector, Timer
    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy

MOST_NAMED: Final = 100
"""Requests that a crash report names at most."""


class Dispatch:
    """All generations of one model that have not ended. `on_end` is told of each end.

    `refusal` returns why the model takes no new work; None if it does.
    """

    def __init__(
        self,
        child: Child,
        ids: Iterator[int],
        policy: ResumePolicy,
        pause: PauseDetector,
        on_end: Callable[[Generation], None],
        events: Events,
        refusal: Callable[[], WorkerError | None],
    ) -> None:
        self._child = child
        self._refusal = refusal
        self._events = events
        self._ids = ids
        self._policy = policy
        self._pause = pause
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._open: dict[Generation, int] = {}
        # With the end of its patience, which it needs only while there is no child.
        self._waiting: dict[Generation, Timer | None] = {}
        self._ended = asyncio.Event()
        self._closing: WorkerError | None = None
        self._is_handing_over = False
        self._lost_ids: list[str] = []
        self.resumes = 0
        self.crash_to_token = Histogram(CRASH_TO_TOKEN)

    def submit(self, generation: Generation, until: float) -> None:
        """Take it on. Where no child serves it waits for one, until then on the loop's clock."""
        self._wait(generation, until)
        self._hand_over()

    async def drain(self, refusal: WorkerError) -> None:
        """Wait until all that was begun has ended. What was not is refused at once."""
        self._closing = refusal
        for generation in list(self._waiting):
            if not generation.lost_by:
                generation.fail(refusal)
        while self._open or self._waiting:
            self._ended.clear()
            await self._ended.wait()

    @property
    def is_busy(self) -> bool:
        """Is anything running or waiting?"""
        return bool(self._open or self._waiting)

    @property
    def kv_tokens(self) -> list[int]:
        """Of each generation in the child's hands: tokens that it has KV of."""
        return [it.kv_tokens for it in self._open]

    # --- the child's side ---

    def take_lost(self) -> list[str]:
        """Which requests were lost since this was asked last, by their names in the log."""
        lost, self._lost_ids = self._lost_ids, []
        return lost[:MOST_NAMED]

    def entered(self, state: State) -> None:
        """The child is in a new state."""
        match state:
            case State.READY:
                for generation in self._waiting:
                    self._set_timer(generation, None)
                self._hand_over()
            case State.FAILED:
                self._fail_waiting(until=self._child.lifecycle.next_try)
            case State.STOPPED if self._closing:
                self._fail_waiting()
            case _:
                until = self._loop.time() + self._policy.timeout
                for generation, timer in self._waiting.items():
                    if timer is None:
                        self._set_timer(generation, until)

    def progressed(self) -> None:
        """More of the model is in memory."""
        for generation in self._waiting:
            generation.progressed()

    # --- a generation's side ---

    def lost(self, generation: Generation, why: str) -> None:
        """Its process is gone: have it wait for the next one, where there is to be one."""
        del self._open[generation]
        generation.lose(why)
        self._lost_ids.append(generation.request_id)
        is_cut_off = self._child.state is State.STOPPING
        if not is_cut_off:  # else nothing has crashed
            generation.crashes += 1
        if generation.has_left:
            generation.drop()
        elif is_cut_off and isinstance(self._closing, NodeDraining):
            generation.fail(NodeDraining("the node went away in mid-answer", retry_after=5))
        elif not self._child.coming_back:
            generation.fail(ChildLost(why, retry_after=1))
        elif is_poison(generation, self._policy):
            self._events.happened(
                "poison",
                self._child.model,
                level=logging.WARNING,
                request_id=generation.request_id,
                crashes=generation.crashes,
            )
            self._child.lifecycle.pardon(generation.crashes)
            generation.fail(
                PoisonedRequest(f"{why}; {generation.crashes} processes died on this request")
            )
        else:
            self._wait(generation, self._loop.time() + self._policy.timeout)

    def spoke_again(self, _generation: Generation, after: float) -> None:
        """What a crash took was seconds away, to its reader."""
        self.crash_to_token.observe(after)

    def left(self, generation: Generation) -> None:
        """Nobody reads it any more."""
        id_ = self._open.get(generation)
        if id_ is None:
            generation.drop()
        else:
            self._child.cancel(id_)

    def overdue(self, generation: Generation, error: WorkerError) -> None:
        """Its time is up: free its row, and tell its reader."""
        id_ = self._open.get(generation)
        if id_ is not None:
            self._child.cancel(id_)
        generation.fail(error)

    def ended(self, generation: Generation) -> None:
        """It has had its last word: whoever waited for that may go."""
        self._open.pop(generation, None)
        if generation in self._waiting:
            self._set_timer(generation, None)
            del self._waiting[generation]
        self._on_end(generation)
        self._ended.set()
        self._hand_over()

    # --- inside ---

    def _fail_waiting(self, until: float | None = None) -> None:
        """Fail what waits, but for begun work that may wait beyond `until` for the next try."""
        for generation, timer in list(self._waiting.items()):
            may_wait = until is not None and timer is not None and timer.when() > until
            if not (generation.lost_by and may_wait):
                generation.fail(self._what_became_of(generation))

    @property
    def _has_child(self) -> bool:
        return self._child.serving and self._child.state is State.READY

    def _hand_over(self) -> None:
        """Give the child what it may have; while it drains, only what a child had before."""
        if self._is_handing_over:
            return  # a generation ended in the loop below, which looks again
        self._is_handing_over = True
        try:
            while turns := self._next_turns():
                for generation in turns:
                    if generation in self._waiting:
                        self._give(generation)
        finally:
            self._is_handing_over = False

    def _next_turns(self) -> Sequence[Generation]:
        if not self._waiting or not self._child.serving:
            return ()
        self._end_changed()
        waiting = [it for it in self._waiting if it.lost_by or self._has_child]
        return may_start(waiting, self._open, self._policy)

    def _end_changed(self) -> None:
        """End what was begun by other weights or versions: the rest would be others' words."""
        now = identity_of(self._child.status)
        for generation in [it for it in self._waiting if it.has_begun and it.identity != now]:
            before = generation.identity
            assert before is not None, "a process has begun the generation"
            self._events.happened(
                "weights changed",
                self._child.model,
                level=logging.WARNING,
                request_id=generation.request_id,
                after_tokens=len(generation.tokens),
                was=before.fingerprint,
                now=now.fingerprint,
            )
            generation.fail(weights_changed(self._child.model, before, now))

    def _give(self, generation: Generation) -> None:
        generation.identity = identity_of(self._child.status)
        self._set_timer(generation, None)
        del self._waiting[generation]
        id_ = next(self._ids)
        ask = Generate(
            id_,
            generation.request,
            list(generation.tokens),
            generation.session,
            generation.request_id,
            generation.room,
        )
        self._open[generation] = id_
        generation.handed_over.append(time.perf_counter())
        try:
            self._child.open(id_, generation, ask)
        except ValueError as error:
            generation.fail(InvalidRequest(str(error)))
            return
        if generation.lost_by:
            self.resumes += 1
            self._events.happened(
                "resume",
                self._child.model,
                request_id=generation.request_id,
                after_tokens=len(generation.tokens),
                crashes=generation.crashes,
            )

    def _wait(self, generation: Generation, until: float) -> None:
        self._waiting[generation] = None
        if not self._has_child:
            self._set_timer(generation, until)

    def _set_timer(self, generation: Generation, until: float | None) -> None:
        if (timer := self._waiting[generation]) is not None:
            timer.cancel()
        self._waiting[generation] = (
            None
            if until is None
            else self._pause.timer(until - self._loop.time(), self._expire, generation)
        )

    def _expire(self, generation: Generation) -> None:
        generation.fail(self._what_became_of(generation))

    def _what_became_of(self, generation: Generation) -> WorkerError:
        """Why it waits no longer for a child."""
        child, refusal = self._child, self._refusal()
        if generation.lost_by:
            rest = f": {child.reason}" if child.state is State.FAILED else ""
            retry = refusal.retry_after if refusal else 1
            return ChildLost(
                f"{generation.lost_by}, and the model is {child.state.value}{rest}",
                retry_after=retry,
            )
        if self._closing:
            return self._closing
        return refusal or ModelLoading(f"model {child.model!r} is coming back", retry_after=2)
