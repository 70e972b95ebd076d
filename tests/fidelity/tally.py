"""How many answers were compared, and how many were wrong: printed when all tests have run."""

from __future__ import annotations

from collections import Counter

compared: Counter[str] = Counter()
wrong: Counter[str] = Counter()


def note(family: str, cases: int, mistakes: int) -> None:
    compared[family] += cases
    wrong[family] += mistakes


def line() -> str:
    """Such as "fidelity: 2,113 cases, 0 mismatches (tiny 1,002, window 412, …)"."""
    each = ", ".join(f"{family} {count:,}" for family, count in compared.items())
    return f"fidelity: {compared.total():,} cases, {wrong.total():,} mismatches ({each})"
