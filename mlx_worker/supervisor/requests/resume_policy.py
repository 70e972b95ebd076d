"""What becomes of requests whose child died: the decisions, without a child.

Whoever was in a child's hands when it died is a suspect. After one crash all go back together:
most crashes are nobody's fault. Who was there at a second one goes back alone, one after the
other, while everybody else waits, so that a request that fells its child fells nobody else's with
it; at `max_crashes` it is refused. Pure. [front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

APART: Final = 2
"""Crashes after which a request goes back alone; sooner where the next would be its last."""


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """How long a request waits for its child, in seconds, and how many of them it may see die.

    `timeout` is for what a child has lost, `load_wait` for what none has had yet; a stream whose
    child makes progress but has nothing to say gets a sign of life every `sign_every`.
    """

    timeout: float = 300.0
    load_wait: float = 30.0
    max_crashes: int = 3
    sign_every: float = 5.0


class Suspect(Protocol):
    """Whoever was in a child's hands at so many of its crashes."""

    crashes: int


S = TypeVar("S", bound=Suspect)


def is_poison(suspect: Suspect, policy: ResumePolicy) -> bool:
    """Has it felled, or seen felled, as many children as it may?"""
    return suspect.crashes >= policy.max_crashes


def may_start(waiting: Sequence[S], running: Collection[S], policy: ResumePolicy) -> Sequence[S]:
    """Who of those that wait may go to the child now, beside those that run in it."""
    apart = min(APART, policy.max_crashes - 1)
    if apart == 0:  # nobody comes back from a crash
        return waiting
    if any(it.crashes >= apart for it in running):
        return ()
    alone = [it for it in waiting if it.crashes >= apart]
    if alone:
        return () if running else alone[:1]
    return waiting
