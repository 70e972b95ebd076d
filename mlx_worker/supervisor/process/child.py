"""One child: the process, its pipe and the single writer of its state.

Everything that happens to the child arrives in one inbox, stamped with the incarnation it happened
to; one task applies it to the `Lifecycle` and carries out what the new state means. Late words of
a former incarnation are dropped there. Facts the child pushes (memory, cache, progress) are kept
for whoever asks: a health report never waits for a child. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_worker.errors import ChildLost, ModelFailed, ModelLoading, NodeDraining, WorkerError
from mlx_worker.logs import Entry
from mlx_worker.supervisor.fingerprint import note_replaced_package
from mlx_worker.supervisor.process.connection import Owner
from mlx_worker.supervisor.process.process import how_it_ended, signal_name
from mlx_worker.supervisor.process.states import Event, IllegalEvent, State
from mlx_worker.supervisor.process.stderr import KEPT_OF_MODEL, DeviceErrors, Line, device_error
from mlx_worker.supervisor.requests.token_stats import Pace
from mlx_worker.supervisor.ring_buffer import Ring
from mlx_worker.wire.messages import (
    PROTOCOL,
    CacheState,
    CancelGeneration,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ping,
    Pong,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping

    from mlx_worker.supervisor.event_log import Events
    from mlx_worker.supervisor.process.connection import Fact, Link, Listener
    from mlx_worker.supervisor.process.launcher import Launch, Launched
    from mlx_worker.supervisor.process.lifecycle import Lifecycle, Timings
    from mlx_worker.supervisor.process.pause import Handle, PauseDetector
    from mlx_worker.supervisor.process.process import ChildProcess
    from mlx_worker.wire.base import WireMessage

log = logging.getLogger(__name__)

LAST_WORDS = 1.0
"""Seconds in which the pipe of a process that has ended is read to its end."""


@dataclass(slots=True)
class Facts:
    """What the child last said of itself; nothing outlives its process."""

    pid: int | None = None
    loading: LoadProgress | None = None
    loaded: Loaded | None = None
    cache: CacheState | None = None
    pong: Pong | None = None
    load_seconds: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    working_set: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, in words, when (ms since the epoch), and what it wrote last.

    `code` as `subprocess` has it; seconds in `uptime`; `in_flight` are the requests that it had,
    `measured` is what it last said of its memory.
    """

    how: str
    at: float
    lines: list[str]
    pid: int
    code: int
    uptime: float
    in_flight: list[str]
    measured: Pong | None


@dataclass(frozen=True, slots=True)
class _Seen:
    incarnation: int
    event: Event
    reason: str


class Child:
    """The process of one model, through all its incarnations.

    `launch` gives it a process, `pause` knows when this process did not run, `on_entered` is told
    every state once it is carried out, `on_progress` that more of the model is in memory; `is_busy`
    answers whether anybody needs the model, `take_lost` which requests its last process had when
    that ended. `held_back` is why the node does not start it, None where it would; `at_start` in
    bytes is what its process was measured to take once it was loaded, and outlives that process.
    `on_retry_due` is told that the slow retry of a model that was given up is due, which the node
    starts with `start`.
    """

    def __init__(
        self,
        load: Load,
        lifecycle: Lifecycle,
        timings: Timings,
        *,
        launch: Launch,
        pause: PauseDetector,
        on_entered: Callable[[State], None],
        on_progress: Callable[[], None],
        is_busy: Callable[[], bool],
        take_lost: Callable[[], list[str]],
        events: Events,
        on_retry_due: Callable[[], None],
    ) -> None:
        self.load = load
        self.facts = Facts()
        self.pace = Pace()
        self.lines: Ring[Line] = Ring(KEPT_OF_MODEL)
        self.last_exit: Exit | None = None
        self.entered_at: dict[State, float] = {}
        """When it was last in each state that it has been in: ms since the epoch."""
        self.held_back: WorkerError | None = None
        self.at_start: int | None = None
        self._life = lifecycle
        self._timings = timings
        self._on_entered = on_entered
        self._on_progress = on_progress
        self._launch = launch
        self._pause = pause
        self._is_busy = is_busy
        self._take_lost = take_lost
        self._on_retry_due = on_retry_due
        self._events = events
        self._measured: Pong | None = None
        self._ended: Exit | None = None
        self._asked_to_run = False
        self._is_unload_asked = False  # and the writer has not come to it
        self._retry_due = False
        self._inbox: asyncio.Queue[_Seen] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Condition()
        self._link: Link | None = None
        self._process: ChildProcess | None = None
        self._timer: Handle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._started_at = self._loop.time()
        self._device_errors = DeviceErrors()
        self._pings = itertools.count(1)
        self._writer = asyncio.create_task(self._write(), name=f"child {load.model}")

    # --- what others may ask ---

    @property
    def state(self) -> State:
        """The state as of now; decide nothing from it that `open` does not decide anew."""
        return self._life.state

    @property
    def reason(self) -> str:
        """Why it is not READY, or why it was restarted last."""
        return self._life.reason

    @property
    def incarnation(self) -> int:
        """The number of its process: 1 for the first, one more for each that follows."""
        return self._life.incarnation

    @property
    def restarts(self) -> int:
        """How often it has been started again."""
        return self._life.restarts

    @property
    def restarts_by(self) -> Counter[Event]:
        """The same by what ended the process before."""
        return self._life.restarts_by

    @property
    def given_up(self) -> bool:
        """Return True from giving up until READY, or until an operator asks for a start."""
        return self._life.given_up

    @property
    def cannot_load(self) -> bool:
        """Return True if the model's files are why the child was given up."""
        causes = (Event.CANNOT_LOAD, Event.CANNOT_START)
        return self.state is State.FAILED and self._life.cause in causes

    @property
    def wants_process(self) -> bool:
        """Return True if the model was to run when the child was given up."""
        return self._life.wanted

    @property
    def next_try(self) -> float | None:
        """Return when the child is started again, on the loop's clock; None: nothing is due."""
        return self._life.deadline if self.state in (State.BACKOFF, State.FAILED) else None

    @property
    def retry_after(self) -> float:
        """Return the seconds until the next try, at least 1."""
        return max(1.0, (self.next_try or 0.0) - self._loop.time())

    @property
    def ends(self) -> tuple[int, int]:
        """Return the recent ends that count, and how many of them are allowed."""
        return self._life.ends(self._loop.time())

    @property
    def has_lost_its_device(self) -> bool:
        """Was it given up because new processes do not heal what ends them?"""
        return self.state is State.FAILED and self._life.cause is Event.DEVICE_LOST

    @property
    def stalls(self) -> int:
        """How often it had work and made no progress."""
        return self._life.stalls

    @property
    def open_ids(self) -> int:
        """Work in the child's hands."""
        return self._link.open_ids if self._link else 0

    @property
    def serving(self) -> bool:
        """Does it do what it is given? A dead one may be READY for a moment yet."""
        up = self._link is not None and self._link.is_up
        return up and self.state in (State.READY, State.DRAINING)

    @property
    def coming_back(self) -> bool:
        """Is it meant to run, so that what it loses may wait for its next process?

        What was asked counts before the writer has come to it.
        """
        return self._asked_to_run

    def start(self) -> None:
        """Ask for it to run. Nothing happens where it does."""
        self._asked_to_run = True
        if self._retry_due:  # the ends before it still count
            self._tell(Event.DEADLINE)
        else:
            self._device_errors.forget()
            self._tell(Event.START)

    def restart(self) -> None:
        """Ask for a new process: what runs may finish within the drain deadline first."""
        self._device_errors.forget()
        self._asked_to_run = True
        self._tell(Event.RESTART)

    def stop(self) -> None:
        """Ask for it to finish its work, within the drain deadline, and end."""
        self._asked_to_run = False
        self._tell(Event.STOP)

    def unload(self) -> bool:
        """Ask the process to end until it is needed; return False if that is asked already.

        Nothing happens where the process has work when the writer comes to it.
        """
        if self._is_unload_asked:
            return False
        self._is_unload_asked = True
        self._tell(Event.UNLOAD)
        return True

    def cannot_start(self, why: str) -> None:
        """Record that the model cannot be started now: its folder or memory does not allow it."""
        self._tell(Event.CANNOT_START, why)

    def can_start(self) -> None:
        """Record that the model can be started again, by its first request."""
        self._tell(Event.CAN_START)

    def pardon(self, deaths: int) -> None:
        """Take back ends that one request caused which was refused for them."""
        self._life.pardon(deaths)

    def hurry(self) -> None:
        """Ask for the end of a drain: what still runs is cut off."""
        self._tell(Event.HURRY)

    def refusal(self) -> WorkerError | None:
        """Why it takes no new work just now; None: it does."""
        model = self.load.model
        if self.held_back is not None and self.state is not State.FAILED:
            return self.held_back
        match self.state:
            case State.READY:
                return None
            case State.FAILED:
                why = f"model {model!r} was given up: {self.reason}"
                return ModelFailed(why, retry_after=self.retry_after)
            case State.DRAINING if not self.coming_back:
                return NodeDraining(f"model {model!r} is being stopped", retry_after=5)
            case state:
                why = f" after: {self.reason}" if self.reason else ""
                wait = max(2.0, self.retry_after)
                return ModelLoading(f"model {model!r} is {state.value}{why}", retry_after=wait)

    def open(self, id_: int, listener: Listener, message: WireMessage) -> None:
        """Give it work. Raises what `refusal` says, or ChildLost, unless it is `serving`."""
        if self._link is None or not self.serving:
            raise self.refusal() or ChildLost("the model's process has just ended", retry_after=1)
        self._link.open(id_, listener, message)

    def cancel(self, id_: int) -> None:
        """Nobody waits for this id any more."""
        if self._link is not None:
            self._link.send(CancelGeneration(id_))

    async def reached(self, *states: State) -> State:
        """Wait until it is in one of these states."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.state in states)
            return self.state

    async def settled(self) -> None:
        """Wait until it serves, or will not by itself."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self.serving
                    or self.state is State.FAILED
                    or (self.state is State.STOPPED and not self.coming_back)
                )
            )

    async def has_left(self, state: State) -> State:
        """Wait until it is in another state than this one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.state is not state)
            return self.state

    async def close(self) -> None:
        """End the writer and the timers. The child must have been stopped before."""
        self.lines.close()
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        if self._timer is not None:
            self._timer.cancel()  # the slow retry of a model that was given up

    # --- the writer ---

    def _tell(self, event: Event, reason: str = "", incarnation: int | None = None) -> None:
        stamp = self._life.incarnation if incarnation is None else incarnation
        self._inbox.put_nowait(_Seen(stamp, event, reason))

    async def _write(self) -> None:
        while True:
            seen = await self._inbox.get()
            if seen.event is Event.UNLOAD:
                self._is_unload_asked = False
            if seen.incarnation != self._life.incarnation and seen.event not in (
                Event.START,
                Event.RESTART,
                Event.STOP,
                Event.HURRY,
                Event.CANNOT_START,
                Event.CAN_START,
            ):
                continue
            if seen.event is Event.UNLOAD and self._is_busy():
                continue
            before = self.state
            try:
                self._life.apply(seen.event, self._loop.time(), seen.reason)
            except IllegalEvent as error:
                log.debug(Entry("illegal event", model=self.load.model, what=str(error)))
                continue
            if seen.event is Event.UNLOAD:
                self._asked_to_run = False
            elif seen.event is Event.CANNOT_START:
                self._arm()
            if self.state is not before:
                try:
                    await self._entered(before, seen)
                except Exception as error:
                    # A defect, which must not end the one task that brings the model back.
                    log.exception(Entry("not carried out", model=self.load.model, was=before))
                    self._give_up_process(f"a defect of the node: {error!r}")

    async def _entered(self, before: State, seen: _Seen) -> None:
        self._note(before, seen)
        self._arm()
        match self.state:
            case State.STARTING:
                await self._spawn()
            case State.READY:
                self.facts.load_seconds = self._loop.time() - self._started_at
                self._look_after(self._life.incarnation)
            case State.DRAINING if self.open_ids == 0:
                self._tell(Event.DRAINED)
            case State.STOPPING:
                self._close_link()
            case State.KILLING:
                self._close_link()
                if self._process is not None:
                    self._process.kill()
            case State.BACKOFF | State.STOPPED:
                self._close_link()
            case State.FAILED:
                self._asked_to_run = False
                self._close_link()
            case _:
                pass
        self._on_entered(self.state)
        if self.state is State.LOADING:
            # Only now: what the process said of its device may have lowered what it may take.
            self._say(self.load)
        async with self._changed:
            self._changed.notify_all()

    def _note(self, before: State, seen: _Seen) -> None:
        self.entered_at[self.state] = time.time() * 1000
        if self.state not in (State.STARTING, State.LOADING, State.READY, State.DRAINING):
            self.facts = Facts()
        if seen.event in (Event.EXITED, Event.DEVICE_LOST) and before is not State.STOPPING:
            self._report_crash()
        self._events.happened(
            "state",
            self.load.model,
            level=logging.WARNING if self.state in (State.KILLING, State.FAILED) else logging.INFO,
            was=before.value,
            now=self.state.value,
            because=seen.event.value,
            reason=seen.reason,
        )

    def _report_crash(self) -> None:
        """Everything that is known of a process that ended without being asked to."""
        ended, self._ended = self._ended, None
        if ended is None:  # there was none: it could not be started
            return
        self._events.happened(
            "crash",
            self.load.model,
            level=logging.WARNING,
            cause=self.reason or ended.how,
            how=ended.how,
            signal=signal_name(ended.code),
            exit_code=ended.code if ended.code >= 0 else None,
            pid=ended.pid,
            uptime_s=round(ended.uptime, 3),
            in_flight=ended.in_flight,
            resident_bytes=ended.measured.resident_bytes if ended.measured else None,
            device_bytes=ended.measured.device_bytes if ended.measured else None,
            lines=ended.lines,
        )

    def _arm(self) -> None:
        """Have the state's one deadline arrive as an event."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._retry_due = False
        if self._life.deadline is not None and self.state is State.FAILED:
            self._timer = self._loop.call_at(self._life.deadline, self._retry_is_due)
        elif self._life.deadline is not None:
            self._timer = self._pause.timer(
                self._life.deadline - self._loop.time(),
                self._tell,
                Event.DEADLINE,
                "" if self.state is State.BACKOFF else f"{self.state.value} took too long",
                self._life.incarnation,
            )

    def _retry_is_due(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.cannot_start(self.reason)  # two processes of one model would share its memory
        else:
            self._retry_due = True
            self._on_retry_due()

    # --- acts ---

    async def _spawn(self) -> None:
        incarnation = self._life.incarnation
        self._close_link()  # its process may have ended without closing it
        self.facts = Facts()
        self._measured = None
        self._ended = None
        self._started_at = self._loop.time()
        owner = Owner(
            on_fact=lambda fact: self._hear(fact, incarnation),
            on_end=lambda event, reason: self._tell(event, reason, incarnation),
            on_quiet=self._quiet,
            on_step=self.pace.step,
        )
        try:
            launched = await self._launch(owner)
        except OSError as error:
            self._tell(Event.NOT_SPAWNED, str(error), incarnation)
            return
        self._process, self._link = launched.process, launched.link
        self.facts.pid = self._process.pid
        self.facts.env = launched.env
        launched.words.of(self.load.model, self.lines)
        self._reaper = asyncio.create_task(self._reap(launched, incarnation))
        if launched.hello is not None:
            self._hear(launched.hello, incarnation)

    async def _reap(self, launched: Launched, incarnation: int) -> None:
        code = await launched.process.wait()
        how = how_it_ended(code)
        # What it said last may still be in its pipes, and may say why it ended.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await launched.link.ended.wait()
        lines = await launched.words.complete(LAST_WORDS)
        in_flight = self._take_lost()
        if code > 0 and not in_flight and self._measured is None:
            # Never at work, so that its last line holds no words of a request.
            how = launched.words.cause(how)
        self.last_exit = self._ended = Exit(
            how,
            time.time() * 1000,
            lines,
            pid=launched.process.pid,
            code=code,
            uptime=self._loop.time() - self._started_at,
            in_flight=in_flight,
            measured=self._measured,
        )
        error = device_error(lines)
        if self._device_errors.ended(error, in_flight):
            reason = f"needs reboot: {error}, process after process"
            self._tell(Event.DEVICE_LOST, reason, incarnation)
        else:
            cause = error or launched.words.computation_failure
            self._tell(Event.EXITED, f"{how}: {cause}" if cause else how, incarnation)

    def _give_up_process(self, why: str) -> None:
        """Its end, which its reaper will see, leads out of any state; so does there being none."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        else:
            self._tell(Event.EXITED, why)

    def _say(self, message: WireMessage) -> None:
        if self._link is not None:
            self._link.send(message)

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    # --- ears ---

    def _hear(self, fact: Fact, incarnation: int) -> None:
        match fact:
            case Hello() if fact.protocol != PROTOCOL:
                wrong = (
                    f"the model's process speaks protocol {fact.protocol}, not {PROTOCOL}: "
                    "mlx-worker was replaced while this node runs; restart the node"
                )
                self._tell(Event.GARBAGE, wrong, incarnation)
            case Hello():
                self.facts.versions = fact.versions
                self.facts.working_set = fact.working_set
                note_replaced_package(self._events, self.load.model, fact.versions)
                self._tell(Event.HELLO, "", incarnation)
            case LoadProgress():
                self.facts.loading = fact
                self._life.progressed(self._loop.time())
                self._arm()
                self._on_progress()
            case Loaded():
                self.facts.loaded = fact
                self._tell(Event.LOADED, "", incarnation)
            case LoadFailed():
                event = Event.CANNOT_LOAD if fact.permanent else Event.LOAD_FAILED
                self._tell(event, fact.reason, incarnation)
            case CacheState():
                self.facts.cache = fact
            case Pong():
                if self.facts.pong is None:
                    self.at_start = fact.resident_bytes
                elif self._link is not None and fact.prepared > self.facts.pong.prepared:
                    self._link.last_progress = self._loop.time()  # requests are being prepared
                self.facts.pong = self._measured = fact

    def _quiet(self) -> None:
        if self.state is State.DRAINING:
            self._tell(Event.DRAINED)

    def _look_after(self, incarnation: int) -> None:
        """Ping, and judge by progress: work in hand and nothing done for `stall` is a hang."""
        link = self._link
        if link is None or incarnation != self._life.incarnation:
            return
        silent = self._loop.time() - self._pause.since(link.last_progress)
        if link.open_ids and silent > self._timings.stall:
            reason = f"{link.open_ids} requests in hand and no progress for {silent:.1f} s"
            self._tell(Event.STALLED, reason, incarnation)
            return
        link.send(Ping(next(self._pings)))
        self._watch = self._loop.call_later(self._timings.ping, self._look_after, incarnation)
