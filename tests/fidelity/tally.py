"""How many answers were compared, and how many were wrong: printed when all tests have run."""

from __future__ import annotations

from collections import Counter

compared: Counter[str] = Counter()
wrong: Counter[str] = Counter()


def note(family: str, cases: int, mistakes: int) -> None:
    compared[family] += cases
    wrong[family] += mistakes


def counted() -> dict[str, tuple[int, int]]:
    """(cases, mistakes) a family, to be added up elsewhere."""
    return {family: (cases, wrong[family]) for family, cases in compared.items()}


def add(elsewhere: dict[str, tuple[int, int]]) -> None:
    """Count what another process has counted."""
    for family, (cases, mistakes) in elsewhere.items():
        note(family, cases, mistakes)


def line() -> str:
    """Such as "fidelity: 2,113 cases, 0 mismatches (tiny 1,002, window 412, …)"."""
    each = ", ".join(f"{family} {count:,}" for family, count in compared.items())
    return f"fidelity: {compared.total():,} cases, {wrong.total():,} mismatches ({each})"
