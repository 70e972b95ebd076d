"""What is wrong with a grammar, found by compiling it and by asking for its first mask.

llguidance counts most of its work and gives up at a limit, but not all: some intersections of
regexes keep it busy for minutes, and no thread can be stopped. So a grammar that may be costly is
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
"""The same for a grammar that a request writes itself: the work of a step grows with its square,
and 2000 items of an ambiguous grammar take a second and a half."""

LEXER_STATES: Final = 50_000
"""Of one grammar, a kilobyte or two each."""

NOTHING_FITS: Final = "NoExtensionBias"
"""llguidance's name for a first mask that allows no token."""


class Vocabulary(msgspec.Struct, frozen=True):
    """A tokenizer as `tokenizer.json` has it, its end tokens, and processor seconds a trial."""

    tokenizer: str
    ends: list[int]
    seconds: float


class Trial(msgspec.Struct, frozen=True):
    """Grammars to be tried, in order."""

    grammars: list[str]
    items: int


class Verdict(msgspec.Struct, frozen=True):
    """The first fault of a trial, "" for none, and in which of its grammars that is."""

    fault: str = ""
    place: int = 0


def limits_of(items: int) -> LLParserLimits:
    """Return llguidance's limits with this many items in a row."""
    return LLParserLimits(
        verbose_errors=False, max_items_in_row=items, max_lexer_states=LEXER_STATES
    )


def tried(vocabulary: LLTokenizer, trial: Trial) -> Verdict:
    """Compile each grammar and compute its first mask, up to the first fault."""
    for place, grammar in enumerate(trial.grammars):
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=limits_of(trial.items))
        if fault := fault_of(matcher):
            return Verdict(fault, place)
    return Verdict()


def fault_of(matcher: LLMatcher) -> str:
    """What keeps a new matcher from its first token; "" where nothing does."""
    if not matcher.is_error():
        matcher.compute_logit_bias()
    return matcher.get_error() if matcher.is_error() else ""
