"""The assertion that keeps a Mac awake: when it is held, and by which arguments."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from mlx_worker.system.sleep_assertion import (
    CHECKS_UNTIL_RELEASE,
    LONGEST_WAIT,
    SleepAssertion,
    launch_program,
)
from tests.supervisor_harness import eventually, soon

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.system.sleep_assertion import Holder

COMMAND = ("/usr/bin/caffeinate", "-i", "-w", str(os.getpid()))


@dataclass
class FakeHolder:
    pid: int
    returncode: int | None = None

    def terminate(self) -> None:
        self.returncode = -15

    async def wait(self) -> int:
        assert self.returncode is not None
        return self.returncode


@dataclass
class Mac:
    """A machine with work or without, and the programs that were started on it."""

    has_work: bool = True
    refuses: OSError | None = None
    commands: list[tuple[str, ...]] = field(default_factory=list)
    holders: list[FakeHolder] = field(default_factory=list)

    async def launch(self, command: tuple[str, ...]) -> Holder:
        self.commands.append(command)
        if self.refuses is not None:
            raise self.refuses
        self.holders.append(FakeHolder(100 + len(self.holders)))
        return self.holders[-1]

    def assertion(self, platform: str = "darwin") -> SleepAssertion:
        return SleepAssertion(lambda: self.has_work, platform=platform, launch=self.launch)


async def check(assertion: SleepAssertion, times: int = 1) -> None:
    for _ in range(times):
        await assertion.check()


async def test_assertion_is_held_by_these_arguments_while_there_is_work() -> None:
    mac = Mac()
    assertion = mac.assertion()
    await check(assertion, 10)
    assert mac.commands == [COMMAND]
    assert "-d" not in COMMAND
    assert assertion.pid == mac.holders[0].pid


async def test_assertion_without_work_starts_nothing() -> None:
    mac = Mac(has_work=False)
    await check(mac.assertion(), 2 * CHECKS_UNTIL_RELEASE)
    assert mac.commands == []


async def test_assertion_is_released_only_after_a_minute_without_work() -> None:
    mac = Mac()
    assertion = mac.assertion()
    await check(assertion)
    for _ in range(3):  # work in short pieces
        mac.has_work = False
        await check(assertion, CHECKS_UNTIL_RELEASE - 1)
        mac.has_work = True
        await check(assertion)
    assert (len(mac.commands), mac.holders[0].returncode) == (1, None)
    mac.has_work = False
    await check(assertion, CHECKS_UNTIL_RELEASE)
    assert (assertion.pid, mac.holders[0].returncode) == (None, -15)
    mac.has_work = True
    await check(assertion)
    assert assertion.pid == mac.holders[1].pid


async def test_assertion_that_ends_by_itself_is_taken_again_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    mac = Mac()
    assertion = mac.assertion()
    starts = []
    for number in range(10 * LONGEST_WAIT):
        started = len(mac.commands)
        await check(assertion)
        if len(mac.commands) > started:
            starts.append(number)
            mac.holders[-1].returncode = 1
    waits = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert waits[:4] == [2, 3, 5, 9]
    assert max(waits) == LONGEST_WAIT + 1
    (warning,) = caplog.messages
    assert "/usr/bin/caffeinate ended with 1" in warning


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EAGAIN])
async def test_assertion_that_cannot_be_started_is_one_warning(
    caplog: pytest.LogCaptureFixture, number: int
) -> None:
    caplog.set_level("INFO")
    mac = Mac(refuses=OSError(number, os.strerror(number)))
    assertion = mac.assertion()
    await check(assertion, 1000)
    (warning,) = caplog.messages
    assert f"cannot be started: {os.strerror(number)}" in warning
    assert len(mac.commands) < 30
    mac.refuses = None
    await check(assertion, LONGEST_WAIT + 1)
    assert assertion.pid is not None


@pytest.mark.parametrize("platform", ["linux", "freebsd14"])
async def test_assertion_elsewhere_starts_nothing(platform: str) -> None:
    mac = Mac()
    async with mac.assertion(platform) as assertion:
        await check(assertion, 5)
    assert mac.commands == []


async def test_assertion_that_may_always_sleep_starts_nothing() -> None:
    mac = Mac()
    async with SleepAssertion(None, platform="darwin", launch=mac.launch) as assertion:
        await check(assertion, 5)
    assert mac.commands == []


async def test_assertion_ends_with_its_context() -> None:
    mac = Mac()

    async def is_held() -> bool:
        return bool(mac.holders)

    async with mac.assertion():
        await eventually(is_held)
    assert [holder.returncode for holder in mac.holders] == [-15]


STAND_IN = """#!/bin/sh
echo "$@" > {told}
exec sleep 600
"""


@pytest.mark.process
async def test_assertion_runs_the_program_and_ends_it(tmp_path: Path) -> None:
    program, told = tmp_path / "caffeinate", tmp_path / "told"
    program.write_text(STAND_IN.format(told=told))
    program.chmod(0o700)

    async def is_told() -> bool:
        return told.exists() and told.read_text().endswith("\n")

    running = SleepAssertion(lambda: True, platform="darwin", program=str(program))
    async with running as assertion:
        await eventually(is_told)
        pid = assertion.pid
        assert pid is not None
        os.kill(pid, 0)
    assert told.read_text() == f"-i -w {os.getpid()}\n"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.process
async def test_assertion_without_the_program_is_refused_as_by_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        await launch_program(("/nowhere/caffeinate",))


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "darwin", reason="caffeinate is on a Mac only")
async def test_assertion_is_one_that_macos_lists_and_leaves_the_display_alone() -> None:
    async with SleepAssertion(lambda: True) as assertion:

        async def is_listed() -> bool:
            listed = await asyncio.to_thread(
                subprocess.check_output, ["/usr/bin/pmset", "-g", "assertions"], text=True
            )
            lines = [line for line in listed.splitlines() if f"pid {assertion.pid}(" in line]
            return [("PreventUserIdleSystemSleep" in line) for line in lines] == [True]

        await soon(eventually(is_listed))
