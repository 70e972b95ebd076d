"""Compile the test modules once, though several processes collect them.

pytest rewrites each module's assertions and keeps what it compiled. The processes of a run begin at
the same time, so each of them would rewrite everything: each begins with another share, and reads
what the others have compiled.
"""

from __future__ import annotations

import contextlib
import os
from importlib import import_module
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def compile_share() -> None:
    """Import this process's share of the test modules. Collecting reports what cannot be."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not name:
        return
    processes = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    files = sorted(TESTS.rglob("test_*.py"))
    for file in files[int(name.removeprefix("gw")) :: processes]:
        module = ".".join(file.relative_to(TESTS.parent).with_suffix("").parts)
        with contextlib.suppress(Exception, pytest.skip.Exception):
            import_module(module)
