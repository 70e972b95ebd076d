"""llguidance's faults as errors of the request, in words that its writer understands.

[child]
"""

from __future__ import annotations

import re
from typing import Final

from mlx_worker.errors import ConstraintFailed, ConstraintTooCostly, InvalidRequest
from mlx_worker.grammar_trial.trial import NOTHING_FITS

LONGEST: Final = 1000
"""Characters of llguidance's words that are passed on: some quote a regex made of one bound."""

RANGE: Final = re.compile(
    r"Failed to generate regex for \w+ range: min=(?:Some\((\S+)\)|None), "
    r"max=(?:Some\((\S+)\)|None)"
)

COSTLY: Final = ("fuel", "too big", "schema too large", "max is", "too many", "limit")
"""What llguidance says where it gives up at one of its limits."""


def refusal(fault: str, place: str, param: str) -> InvalidRequest:
    """Return the error for a fault, found before the answer begins; `place` names the part."""
    words = in_words(fault)
    if fault.startswith(NOTHING_FITS):
        return ConstraintFailed(f"{place}: {words}", param=param)
    if any(word in words for word in COSTLY):
        return ConstraintTooCostly(f"{place}: takes too much work: {words}", param=param)
    return InvalidRequest(f"{place}: {words}", param=param)


def too_costly(place: str, seconds: float) -> ConstraintTooCostly:
    """Return the error for what was not compiled within its processor time."""
    return ConstraintTooCostly(
        f"{place}: cannot be compiled within {seconds} s; fewer or simpler patterns can",
        param=place,
    )


def in_words(fault: str) -> str:
    """Return what a fault means."""
    first = fault.strip().partition("\n<non-verbose/>")[0].strip()
    if first.startswith(NOTHING_FITS):
        return "no text fits it: there is nothing that the answer could go on with"
    if bounds := RANGE.match(first):
        least, most = (it or "any" for it in bounds.groups())
        return f"the range from {least} to {most} cannot be kept: bounds from -1e18 to 1e18 can"
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}…"
