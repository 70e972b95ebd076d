"""Which requests are resumed after their process died: the decisions alone.

Every request that a process had when it died is a suspect. After one crash all of them are resumed
together: most crashes are the fault of no request. A request that was in work at a second crash is
resumed alone, one after the other, while all others wait, so that a request that kills its process
kills no other request with it. At `max_crashes` a request is refused. The functions keep no state.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

CRASHES_TO_ISOLATE: Final = 2
"""Crashes after which a request is resumed alone; sooner if the next would be its last."""

KEEPALIVE_INTERVAL: Final = 5.0
"""Seconds between two keepalives where the configuration turns early responses off."""


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """How long a request waits for a child, in seconds, and how many crashes it may be in.

    `timeout` is for requests that a process has lost, `load_wait` for those that no process has had
    yet. A stream without output gets a keepalive every `keepalive_interval` while its child makes
    progress.
    """

    timeout: float = 300.0
    load_wait: float = 30.0
    max_crashes: int = 3
    keepalive_interval: float = KEEPALIVE_INTERVAL


class Suspect(Protocol):
    """A request that was in work at `crashes` crashes."""

    crashes: int


S = TypeVar("S", bound=Suspect)


def is_poison(suspect: Suspect, policy: ResumePolicy) -> bool:
    """Return True if the request was in work at `max_crashes` crashes."""
    return suspect.crashes >= policy.max_crashes


def is_resumed_alone(suspect: Suspect, policy: ResumePolicy) -> bool:
    """Return True if the request is resumed while all others wait."""
    isolated_from = min(CRASHES_TO_ISOLATE, policy.max_crashes - 1)
    return 0 < isolated_from <= suspect.crashes  # 0: no request is resumed after a crash


def next_to_resume(
    waiting: Sequence[S], running: Collection[S], policy: ResumePolicy
) -> Sequence[S]:
    """Return the waiting requests that may go to the child now, beside those that run in it."""
    if any(is_resumed_alone(request, policy) for request in running):
        return ()
    isolated = [request for request in waiting if is_resumed_alone(request, policy)]
    if isolated:
        return () if running else isolated[:1]
    return waiting
