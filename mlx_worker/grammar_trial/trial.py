"""The fault of a grammar, found by compiling the grammar and computing its first mask.

llguidance counts most of its work and gives up at a limit, but not all: some intersections of
regexes take minutes, and no thread can be stopped. So a grammar that may be costly is
compiled in a helper process first, which the system ends when its processor time is used up.
[child, and its helper]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from llguidance import LLMatcher, LLParserLimits

if TYPE_CHECKING:
    from llguidance import LLTokenizer

PLAIN_ITEMS: Final = 2000
"""Items of the parser in a row: llguidance's own limit, in which no schema takes long."""

FREE_ITEMS: Final = 500
"""The same for a grammar of a request's author: the work of a step grows with the square of the
items, and 2000 items of an ambiguous grammar take a second and a half."""

LEXER_STATES: Final = 50_000
"""Of one grammar, a kilobyte or two each."""

NOTHING_FITS: Final = "NoExtensionBias"
"""llguidance's name for a first mask that allows no token."""


class Vocabulary(msgspec.Struct, frozen=True):
    """Describe a tokenizer (`tokenizer.json`), its end tokens, and the seconds for a trial."""

    tokenizer: str
    ends: list[int]
    seconds: float


class Trial(msgspec.Struct, frozen=True):
    """List grammars to be tried, in order."""

    grammars: list[str]
    items: int


class Verdict(msgspec.Struct, frozen=True):
    """Tell the first fault of a trial, "" for none, and the place of its grammar."""

    fault: str = ""
    place: int = 0


def limits_of(items: int) -> LLParserLimits:
    """Return llguidance's limits with this many items in a row."""
    return LLParserLimits(
        verbose_errors=False, max_items_in_row=items, max_lexer_states=LEXER_STATES
    )


def try_grammars(vocabulary: LLTokenizer, trial: Trial) -> Verdict:
    """Compile each grammar and compute its first mask, up to the first fault."""
    for place, grammar in enumerate(trial.grammars):
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=limits_of(trial.items))
        if fault := fault_of(matcher):
            return Verdict(fault, place)
    return Verdict()


def fault_of(matcher: LLMatcher) -> str:
    """Return the error of a new matcher's first mask; "" where there is none."""
    if not matcher.is_error():
        matcher.compute_logit_bias()
    return matcher.get_error() if matcher.is_error() else ""
