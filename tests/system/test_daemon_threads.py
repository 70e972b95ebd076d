"""Blocking calls that nothing has to wait for."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlx_worker.system.daemon_threads import call_in_daemon_thread
from tests.supervisor_harness import soon

BLOCKED = """
import threading
import uvloop
from mlx_worker.system.daemon_threads import call_in_daemon_thread

async def main():
    call_in_daemon_thread(threading.Event().wait, "blocked")

uvloop.run(main())
print("ended")
"""


async def test_a_call_gives_its_result_or_its_error(tmp_path: Path) -> None:
    assert await soon(call_in_daemon_thread(lambda: 7, "seven")) == 7
    with pytest.raises(FileNotFoundError):
        await soon(call_in_daemon_thread((tmp_path / "none").read_bytes, "none"))


def test_a_process_ends_while_a_call_is_blocked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
