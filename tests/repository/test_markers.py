"""The markers that are set by folder, and the guard that knows which test starts a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.markers import MARKERS, TESTS, markers_of
from tests.processes import DEADLINE

STARTS = """
import asyncio, subprocess, uvloop
from tests.markers import StartedProcesses

async def start():
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()

started = StartedProcesses()
started.watch()
assert started.commands == []
subprocess.run(["true"], check=True)
assert started.commands == ["['true']"], started.commands
uvloop.run(start())
assert len(started.commands) == 2, started.commands
asyncio.run(start())
assert len(started.commands) == 3, started.commands
"""


@pytest.mark.parametrize("marker", MARKERS)
def test_places_of_a_marker_are_there(marker: str) -> None:
    missing = [place for place in MARKERS[marker] if not (TESTS / place).exists()]
    assert not missing


def test_markers_of_a_file_are_those_of_its_folder_and_its_own() -> None:
    assert markers_of(TESTS / "end_to_end" / "test_node.py") == ["process", "mlx", "e2e"]
    assert markers_of(TESTS / "engine" / "output" / "test_text_stream.py") == ["mlx"]
    assert markers_of(TESTS / "wire" / "test_framing.py") == []


@pytest.mark.process
def test_processes_are_noticed_however_they_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
