"""Where tests may start what is slow: a whole node, or a process where memory would do.

A node costs seconds, a process tenths of one, a worker in memory a thousandth. What these have in
common is proved once (`tests/supervisor/process/test_worker_contract.py`), so that no other test
needs the slow one to be believed. A test that does need a process, because only an operating system
kills, hangs, closes descriptors or makes orphans, belongs into one of the places below.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]

NODES: Final = {
    *(
        "bench",
        "cli",
        "clients",
        "end_to_end",
        "faults",
        "fidelity",
        "fuzz",
        "npm",
        "page",
        "server",
    ),
    *("service", "soak", "tools/page_cost.py"),
    "routers/fleet.py",
    "conftest.py",
    "disk_nodes.py",
    "processes.py",
    "test_public_names.py",
    "tools/page_cost.py",
    "tools/ranks_cost.py",
}
"""What starts whole nodes (`tests.processes.running_node`): folders and files of tests/."""

WORKERS: Final = {
    *("faults", "soak"),
    "front/test_traces.py",
    "supervisor/process",
    "supervisor/test_node.py",
    "supervisor/test_starter.py",
    "supervisor_harness.py",
}
"""What starts fake workers in processes (`tests.supervisor_harness.scripted_process`)."""

SLOW: Final = {
    "running_node": NODES,
    "scripted_process": WORKERS,
    "scripted_command": WORKERS,
}


def uses(file: Path, name: str) -> bool:
    text = file.read_text()
    return name in text and any(
        isinstance(t, ast.Name) and t.id == name for t in ast.walk(ast.parse(text))
    )


@pytest.mark.parametrize("slow", SLOW)
def test_slow_things_are_started_only_where_they_belong(slow: str) -> None:
    users = {path.relative_to(TESTS) for path in TESTS.rglob("*.py") if uses(path, slow)}
    assert users, f"nothing uses {slow}: this test has to be told its new name"
    places = [Path(place) for place in SLOW[slow]]
    astray = {
        str(user) for user in users if not any(user.is_relative_to(place) for place in places)
    }
    assert not astray, f"{slow} belongs into one of {sorted(SLOW[slow])}"
