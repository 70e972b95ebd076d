"""Grammars in llama.cpp's notation (GBNF), as llguidance's Lark.

Two servers' fields and vLLM's own take either notation. llguidance converts one to the other; the
work grows with the rules times the characters, which are bounded. [child]
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from mlx_worker.errors import ConstraintTooCostly, InvalidRequest

DEFINES: Final = "::="

MOST_WORK: Final = 5_000_000
"""Rules times characters of one grammar: at most a few tenths of a second."""


def is_gbnf(grammar: str) -> bool:
    """Return True for a grammar that is not written in Lark."""
    return DEFINES in grammar and not is_lark_syntax(grammar)


def as_lark(grammar: str, field: str) -> str:
    """Return a grammar in Lark. Raises InvalidRequest with the line of an error."""
    if not is_gbnf(grammar):
        return grammar
    rules = grammar.count(DEFINES)
    if rules * len(grammar) > MOST_WORK:
        raise ConstraintTooCostly(
            f"{field}: {rules} rules in {len(grammar)} characters of GBNF; rules times characters"
            f" are at most {MOST_WORK}",
            param=field,
        )
    try:
        return _converted(grammar)
    except RecursionError as error:
        raise ConstraintTooCostly(f"{field}: nested too deeply", param=field) from error
    except Exception as error:  # the converter raises Exception itself
        raise InvalidRequest(f"{field}: {error}", param=field) from error


@lru_cache(maxsize=16)
def _converted(grammar: str) -> str:
    return gbnf_to_lark(grammar)
