"""llguidance's faults as errors of the request, in words for the request's author.

[child]
"""

from __future__ import annotations

import re
from typing import Final

from mlx_worker.errors import ConstraintFailed, ConstraintTooCostly, InvalidRequest
from mlx_worker.grammar_trial.trial import NOTHING_FITS

LONGEST: Final = 1000
"""Characters of llguidance's message that are passed on: some quote a long generated regex."""

RANGE: Final = re.compile(
    r"Failed to generate regex for \w+ range: min=(?:Some\((\S+)\)|None), "
    r"max=(?:Some\((\S+)\)|None)"
)

COSTLY: Final = ("fuel", "too big", "schema too large", "max is", "too many", "limit")
"""Words in llguidance's messages about its limits."""


def refusal(fault: str, place: str, param: str) -> InvalidRequest:
    """Return the error for a fault, found before the answer begins; `place` names the part."""
    words = explain_fault(fault)
    if fault.startswith(NOTHING_FITS):
        return ConstraintFailed(f"{place}: {words}", param=param)
    if any(word in words for word in COSTLY):
        return ConstraintTooCostly(f"{place}: too complex: {words}", param=param)
    return InvalidRequest(f"{place}: {words}", param=param)


def too_costly(place: str, seconds: float) -> ConstraintTooCostly:
    """Return the error for a grammar that was not compiled within its processor time."""
    return ConstraintTooCostly(
        f"{place}: cannot be compiled within {seconds} s; use fewer or simpler patterns",
        param=place,
    )


def explain_fault(fault: str) -> str:
    """Return what a fault means."""
    first = fault.strip().partition("\n<non-verbose/>")[0].strip()
    if first.startswith(NOTHING_FITS):
        return "no text fits: no token could follow"
    if bounds := RANGE.match(first):
        least, most = (bound or "any" for bound in bounds.groups())
        return f"the range from {least} to {most} is not supported: bounds are at most 1e18"
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}…"
