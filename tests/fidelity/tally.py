"""How many answers were compared, and how many were wrong: printed when all tests have run."""

from __future__ import annotations

from collections import Counter

compared: Counter[str] = Counter()
wrong: Counter[str] = Counter()
ties: Counter[str] = Counter()
"""Answers that parted where rounding decides: see tests/fidelity/ties.py."""


def note(family: str, cases: int, mistakes: int) -> None:
    compared[family] += cases
    wrong[family] += mistakes


def counted() -> dict[str, tuple[int, int, int]]:
    """(cases, mistakes, ties) a family, to be added up elsewhere."""
    return {family: (cases, wrong[family], ties[family]) for family, cases in compared.items()}


def add(elsewhere: dict[str, tuple[int, int, int]]) -> None:
    """Count what another process has counted."""
    for family, (cases, mistakes, tied) in elsewhere.items():
        note(family, cases, mistakes)
        ties[family] += tied


def line() -> str:
    """Such as "fidelity: 2,113 cases, 0 mismatches (tiny 1,002, window 412, …)"."""
    each = ", ".join(f"{family} {count:,}" for family, count in compared.items())
    tied = f", {ties.total():,} ties" if ties.total() else ""
    return f"fidelity: {compared.total():,} cases, {wrong.total():,} mismatches{tied} ({each})"
