"""Hands the generations of one model to its child, and to the next process when one dies.

A generation that was accepted stays here until its end, however many processes that takes. The
generation is handed over when the child serves. When the process dies, the generation waits for the
next process, and is handed over again under a new wire id with the token ids that its client has.
Waiting has a deadline only while no child serves.

[front]
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mlx_worker.errors import (
    ChildLost,
    InvalidRequest,
    ModelLoading,
    NodeDraining,
    PoisonedRequest,
    WorkerError,
)
from mlx_worker.supervisor.fingerprint import identity_of, weights_changed
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.disk_suspicion import DiskSuspects, avoids_disk
from mlx_worker.supervisor.requests.recovery_log import RecoveryLog
from mlx_worker.supervisor.requests.resume_policy import is_poison, next_to_resume
from mlx_worker.supervisor.requests.waiting import WaitingGenerations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.process.child import Child
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy


class Dispatcher:
    """All generations of one model that have not ended; the owner of each of them.

    `on_end` is called at each end. `refusal` returns why the model takes no new work; None if it
    does. `log` has what is reported of the generations.
    """

    def __init__(
        self,
        child: Child,
        ids: Iterator[int],
        policy: ResumePolicy,
        pause: PauseDetector,
        on_end: Callable[[Generation], None],
        events: EventLog,
        refusal: Callable[[], WorkerError | None],
    ) -> None:
        self._child = child
        self._refusal = refusal
        self.log = RecoveryLog(child.model, events)
        self._ids = ids
        self._policy = policy
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._open: dict[Generation, int] = {}
        self._waiting = WaitingGenerations(pause, self._on_wait_expired)
        self._ended = asyncio.Event()
        self._closing: WorkerError | None = None
        self._is_handing_over = False
        self._past_progress = 0  # reports of loading, and all progress of generations that ended
        self.disk_suspects = DiskSuspects()

    def submit(self, generation: Generation, until: float) -> None:
        """Take a generation on. Without a child it waits, until then on the loop's clock."""
        self._add_waiting(generation, until)
        self._hand_over()

    async def drain(self, refusal: WorkerError) -> None:
        """Wait until all generations that have begun have ended; refuse the others at once."""
        self._closing = refusal
        for generation in self._waiting:
            if not generation.lost_by:
                generation.fail(refusal)
        while self._open or self._waiting:
            self._ended.clear()
            await self._ended.wait()

    @property
    def is_busy(self) -> bool:
        """True if a generation runs or waits."""
        return bool(self._open or self._waiting)

    @property
    def progress(self) -> int:
        """Return a count that rises with all that brings waiting requests nearer to their turn.

        It counts reports of bytes loaded and of prompt tokens read, tokens, and generations that
        ended.
        """
        generations: list[Generation] = [*self._open, *self._waiting]
        return self._past_progress + sum(generation.progress for generation in generations)

    @property
    def kv_tokens(self) -> list[int]:
        """Return, for each generation that runs, the tokens of which the child has KV."""
        return [generation.kv_tokens for generation in self._open]

    # --- the child's side ---

    def on_state_entered(self, state: State) -> None:
        """Hand over, fail or keep waiting generations as the child's new state demands."""
        match state:
            case State.READY:
                for generation in self._waiting:
                    self._waiting.set_end(generation, None)
                self._hand_over()
            case State.FAILED:
                self._fail_waiting(until=self._child.lifecycle.next_try)
            case State.STOPPED if self._closing:
                self._fail_waiting()
            case _:
                until = self._loop.time() + self._policy.timeout
                for generation in self._waiting:
                    if self._waiting.end_of(generation) is None:
                        self._waiting.set_end(generation, until)

    def on_load_progress(self) -> None:
        """Tell the readers of waiting generations that the model is loading.

        A patient generation waits on: its client knows that the model loads, and cannot get the
        status any more that would have its library try again.
        """
        self._past_progress += 1
        until = self._loop.time() + self._policy.load_wait
        for generation in self._waiting:
            generation.on_progress()
            has_end = self._waiting.end_of(generation) is not None
            if has_end and not generation.lost_by and generation.is_patient():
                self._waiting.set_end(generation, until)

    @property
    def avoids_disk(self) -> bool:
        """True if the next process is to read no KV from disk."""
        return avoids_disk(self._waiting, self._policy)

    def suspect(self, records: Iterable[bytes]) -> None:
        """Add records that a process read shortly before its end, unless the node ended it."""
        if self._child.state is not State.STOPPING:
            self.disk_suspects.add(records)

    # --- the owner of generations ---

    def process_lost(self, generation: Generation, why: str) -> None:
        """Have a generation wait for the next process; end it if there is to be none."""
        del self._open[generation]
        suspects = generation.disk_suspects
        generation.on_process_lost(why)
        self.log.on_lost(generation)
        is_cut_off = self._child.state is State.STOPPING
        if not is_cut_off:  # else the node has ended the process
            generation.crashes += 1
            generation.disk_crashes += bool(suspects)
            self.disk_suspects.add(suspects)
        if generation.is_cancelled:
            generation.end_cancelled()
        elif is_cut_off and isinstance(self._closing, NodeDraining):
            generation.fail(NodeDraining("the node went away in mid-answer", retry_after=5))
        elif not self._child.coming_back:
            generation.fail(ChildLost(why, retry_after=1))
        elif is_poison(generation, self._policy):
            self._refuse_poison(generation, why)
        else:
            self._add_waiting(generation, self._loop.time() + self._policy.timeout)

    def _refuse_poison(self, generation: Generation, why: str) -> None:
        self.log.on_poison(generation)
        self._child.lifecycle.forgive_ends(generation.crashes)
        died = f"{generation.crashes} processes died on this request"
        generation.fail(PoisonedRequest(f"{why}; {died}"))

    def first_token_after_resume(self, _generation: Generation, seconds: float) -> None:
        """Record how long a crash has interrupted the output of a generation."""
        self.log.crash_to_token.observe(seconds)

    def client_disconnected(self, generation: Generation) -> None:
        """Cancel a generation whose client has left."""
        id_ = self._open.get(generation)
        if id_ is None:
            generation.end_cancelled()
        else:
            self._child.cancel(id_)

    def abort(self, generation: Generation, error: WorkerError) -> None:
        """Free the row of a generation that has not ended, and fail it."""
        id_ = self._open.get(generation)
        if id_ is not None:
            self._child.cancel(id_)
        generation.fail(error)

    def generation_ended(self, generation: Generation) -> None:
        """Forget a generation that has ended, and hand over those that waited for its end."""
        self._open.pop(generation, None)
        self._waiting.remove(generation)
        self.log.on_ended(generation)
        # The end of one that had begun brings the others nearer to their turn, a refusal does not.
        self._past_progress += generation.progress + generation.has_begun
        self._on_end(generation)
        self._ended.set()
        self._hand_over()

    # --- handing over ---

    def _fail_waiting(self, until: float | None = None) -> None:
        """Fail what waits, except lost generations that may wait for the next try at `until`."""
        for generation in self._waiting:
            end = self._waiting.end_of(generation)
            may_wait = until is not None and end is not None and end > until
            if not (generation.lost_by and may_wait):
                generation.fail(self._reason_to_end(generation))

    @property
    def _has_child(self) -> bool:
        return self._child.serving and self._child.state is State.READY

    def _hand_over(self) -> None:
        """Send what may start to the child; while the child drains, only what was lost before."""
        if self._is_handing_over:
            return  # a generation ended in the loop below, which checks again
        self._is_handing_over = True
        try:
            while batch := self._next_batch():
                for generation in batch:
                    if generation in self._waiting:
                        self._send_to_child(generation)
        finally:
            self._is_handing_over = False

    def _next_batch(self) -> Sequence[Generation]:
        if not self._waiting or not self._child.serving:
            return ()
        self._fail_changed()
        has_child = self._has_child
        waiting = [generation for generation in self._waiting if generation.lost_by or has_child]
        return next_to_resume(waiting, self._open, self._policy)

    def _fail_changed(self) -> None:
        """Fail generations that other weights or versions began: the rest would not fit."""
        begun = [generation for generation in self._waiting if generation.has_begun]
        if not begun:
            return
        now = identity_of(self._child.status)
        for generation in [generation for generation in begun if generation.identity != now]:
            before = generation.identity
            assert before is not None, "a process has begun the generation"
            self.log.on_weights_changed(generation, before, now)
            generation.fail(weights_changed(self._child.model, before, now))

    def _send_to_child(self, generation: Generation) -> None:
        generation.identity = identity_of(self._child.status)
        self._waiting.remove(generation)
        id_ = next(self._ids)
        self._open[generation] = id_
        generation.handed_over.append(time.perf_counter())
        try:
            self._child.open(id_, generation, generation.as_message(id_))
        except ValueError as error:
            generation.fail(InvalidRequest(str(error)))
            return
        self.log.on_handed_over(generation)

    # --- waiting ---

    def _add_waiting(self, generation: Generation, until: float) -> None:
        self._waiting.add(generation, None if self._has_child else until)

    def _on_wait_expired(self, generation: Generation) -> None:
        generation.fail(self._reason_to_end(generation))

    def _reason_to_end(self, generation: Generation) -> WorkerError:
        """Return why a generation does not wait for a child any longer."""
        child, refusal = self._child, self._refusal()
        if generation.lost_by:
            rest = f": {child.reason}" if child.state is State.FAILED else ""
            return ChildLost(
                f"{generation.lost_by}, and the model is {child.state.value}{rest}",
                retry_after=refusal.retry_after if refusal else 1,
            )
        if self._closing:
            return self._closing
        return refusal or ModelLoading(f"model {child.model!r} is coming back", retry_after=2)
