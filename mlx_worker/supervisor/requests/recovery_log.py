"""What is counted and reported of one model's generations: crashes, resumes, poison, loops.

[front]
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mlx_worker.histogram import CRASH_TO_TOKEN, Histogram

if TYPE_CHECKING:
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.fingerprint import Identity
    from mlx_worker.supervisor.requests.generation import Generation

MAX_NAMED: Final = 100
"""Requests that a crash report names at most."""


class RecoveryLog:
    """Counts since the start of the node, and writes events.

    `crash_to_token` has the seconds for which crashes interrupted the output of a generation.
    """

    def __init__(self, model: str, events: EventLog) -> None:
        self._model = model
        self._events = events
        self._lost_ids: list[str] = []
        self.resumes = 0
        self.loops = 0
        self.crash_to_token = Histogram(CRASH_TO_TOKEN)

    def on_lost(self, generation: Generation) -> None:
        """Note that a process died under a generation, for the crash report."""
        self._lost_ids.append(generation.request_id)

    def take_lost_requests(self) -> list[str]:
        """Return the names of the requests lost since the last call."""
        lost, self._lost_ids = self._lost_ids, []
        return lost[:MAX_NAMED]

    def on_poison(self, generation: Generation) -> None:
        """Report a generation that was in work at too many crashes."""
        self._events.record(
            "poison",
            self._model,
            level=logging.WARNING,
            request_id=generation.request_id,
            crashes=generation.crashes,
        )

    def on_weights_changed(self, generation: Generation, before: Identity, now: Identity) -> None:
        """Report a generation that other weights or versions began."""
        self._events.record(
            "weights changed",
            self._model,
            level=logging.WARNING,
            request_id=generation.request_id,
            after_tokens=len(generation.tokens),
            was=before.fingerprint,
            now=now.fingerprint,
        )

    def on_handed_over(self, generation: Generation) -> None:
        """Count and report a generation that goes on in another process."""
        if not generation.lost_by:
            return
        self.resumes += 1
        self._events.record(
            "resume",
            self._model,
            request_id=generation.request_id,
            after_tokens=len(generation.tokens),
            crashes=generation.crashes,
        )

    def on_ended(self, generation: Generation) -> None:
        """Count and report a generation that was ended because it repeated itself."""
        info = generation.finish_info
        if info is None or not info.loop_period:
            return
        self.loops += 1
        self._events.record(
            "loop",
            self._model,
            level=logging.WARNING,
            request_id=generation.request_id,
            period=info.loop_period,
            tokens=info.completion_tokens,
        )
