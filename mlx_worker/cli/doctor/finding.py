"""One finding of `mlx-worker doctor`.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """A finding, and advice about it; with a `bad` finding the node cannot run."""

    severity: Severity
    subject: str
    said: str
    advice: str = ""


def ok(subject: str, said: str) -> Finding:
    """Return a finding without a problem."""
    return Finding("ok", subject, said)


def warn(subject: str, said: str, advice: str) -> Finding:
    """Return a finding with which the node runs, but not as well or as safely as possible."""
    return Finding("warn", subject, said, advice)


def bad(subject: str, said: str, advice: str) -> Finding:
    """Return a finding with which the node does not run."""
    return Finding("bad", subject, said, advice)
