import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil
import pytest

from mlx_worker.api.parsing.parser import COMMAND as PARSER
from mlx_worker.engine.structured.compile_trials import COMMAND as HELPER
from mlx_worker.engine.structured.compile_trials import Trials
from mlx_worker.system.priority import AUTOGROUP, NICENESS
from tests.processes import eventually

GROUPS: Final = pytest.mark.skipif(not AUTOGROUP.exists(), reason="Linux with autogroup only")
LOWER: Final = "from mlx_worker.system.priority import lower_priority; lower_priority()"
SESSION: Final = f"""
import subprocess, sys
print(subprocess.run([sys.executable, "-c", {f"{LOWER}; print('lowered')"!r}],
    stdout=subprocess.PIPE, text=True, check=True).stdout)
print(open({str(AUTOGROUP)!r}).read().split()[-1])
"""
"""A process that leads a session, and runs another in that session that lowers its priority."""

NATIVE: Final = """
import os, threading
import mlx.core as mx
from mlx_worker.system.priority import NativeThreads
mx.eval(mx.zeros(3) + 1)
ours = threading.Thread(target=threading.Event().wait, daemon=True)
ours.start()
threads = NativeThreads()

def tell():
    classes = {tid: os.sched_getscheduler(int(tid)) for tid in os.listdir("/proc/self/task")}
    main, own = classes.pop(str(os.getpid())), classes.pop(str(ours.native_id))
    print(main, own, *{*classes.values()}, flush=True)

for allowed in (False, False, True):
    threads.preempt(allowed=allowed)
    tell()
print(*{os.getpriority(0, int(tid)) for tid in os.listdir("/proc/self/task")}, flush=True)
os._exit(0)
"""
"""A process with a thread of Python's and a thread that mlx computes in."""


def group_niceness(pid: int | str) -> int:
    """The nice value of the session that this process is in."""
    return int(Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii").split()[-1])


@GROUPS
@pytest.mark.parametrize("command", [PARSER, HELPER], ids=["parser", "helper"])
def test_a_process_whose_work_can_wait_lowers_its_session(command: tuple[str, ...]) -> None:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        eventually(lambda: group_niceness(process.pid) == NICENESS)
        assert psutil.Process(process.pid).nice() == os.nice(0) + NICENESS
        process.communicate()


@GROUPS
def test_a_process_in_the_session_of_others_leaves_their_priority() -> None:
    # A session of its own: the one that runs the tests may be in the kernel's first group, which
    # shows no nice value.
    with subprocess.Popen(
        [sys.executable, "-c", SESSION], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as leader:
        said, _ = leader.communicate()
    assert said.split() == ["lowered", "0"]


def test_the_helper_of_grammars_leads_a_session_of_its_own() -> None:
    wait = "import sys; sys.stdin.read()"
    trials = Trials("{}", [0], command=(sys.executable, "-c", wait))
    helper = trials._running()
    try:
        assert os.getsid(helper.pid) == helper.pid
    finally:
        trials.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no such class")
def test_threads_of_mlx_preempt_where_they_may_and_have_the_same_share() -> None:
    command = [sys.executable, "-c", NATIVE]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    *classes, nice = said.splitlines()
    held = [os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_BATCH]
    free = [os.SCHED_OTHER] * 3
    assert [[*map(int, line.split())] for line in classes] == [held, held, free]
    assert int(nice) == os.nice(0)
