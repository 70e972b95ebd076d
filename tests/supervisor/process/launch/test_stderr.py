"""What processes leave on their stderr, and what it says of the device."""

import asyncio
import json
import logging
import sys

import pytest

from mlx_worker.logs import DROPPED
from mlx_worker.supervisor.process.launch.process import spawn
from mlx_worker.supervisor.process.launch.stderr import (
    AT_ONCE,
    KEPT_LINES,
    MAX_CAUSE,
    MAX_LINE,
    SLICE,
    DeviceErrors,
    StderrTail,
    device_error,
)
from mlx_worker.supervisor.requests.rate_allowance import Allowance
from tests.supervisor_harness import soon

HANG = "kIOGPUCommandBufferCallbackErrorHang"
METAL = (
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command "
    f"buffer execution failed: Caused GPU Hang Error (00000003:{HANG})"
)
FULL = "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"


async def written(program: str) -> list[str]:
    process = await spawn([sys.executable, "-c", program], 2)
    words = StderrTail(process)
    await soon(process.wait())
    return await soon(words.complete(within=5))


@pytest.mark.process
async def test_the_last_lines_are_kept_however_they_come() -> None:
    lines = await written(
        "import sys, os\n"
        f"for i in range({KEPT_LINES} + 20): print('line', i, file=sys.stderr)\n"
        "os.write(2, b'\\n\\xff half'); os.write(2, b' a line, and no end')"
    )
    assert len(lines) == KEPT_LINES
    assert lines[0] == "line 21"
    assert lines[-1] == "\ufffd half a line, and no end"


@pytest.mark.process
async def test_a_line_that_never_ends_is_kept_in_pieces() -> None:
    lines = await written(f"import sys; sys.stderr.write('x' * {MAX_LINE * 3 + 7})")
    assert [len(line) for line in lines] == [MAX_LINE, MAX_LINE, MAX_LINE, 7]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([METAL], HANG),
        ([METAL, "Fatal Python error: Aborted", "  File x, line 3"], HANG),
        ([FULL], ""),
        ([METAL, FULL], HANG),
        (["RuntimeError: CUDA error: an illegal memory access was encountered"],
         "CUDA error: an illegal memory access was encountered"),
        (["Traceback", "ValueError: no"], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_a_device_error_is_told_in_its_drivers_words(lines: list[str], error: str) -> None:
    assert device_error(lines) == error


def test_the_same_error_of_process_after_process_is_the_devices() -> None:
    errors = DeviceErrors(limit=3)
    assert [errors.count_end(name) for name in ("a", "a", "b", "b", "", "b", "b")] == [False] * 7
    assert errors.count_end("b")
    assert errors.count_end("b")
    errors.reset()
    assert not errors.count_end("b")


def test_device_errors_of_one_request_are_not_the_devices() -> None:
    errors = DeviceErrors(limit=3)
    assert not errors.count_end("a", ["poison", "other"])
    assert not errors.count_end("a", ["poison"])
    assert not errors.count_end("a", ["poison", "third"])
    # The request was refused, and the errors go on: now the device is meant.
    assert errors.count_end("a", ["third"])


def test_device_errors_of_different_requests_are_the_devices() -> None:
    errors = DeviceErrors(limit=3)
    assert [errors.count_end("a", [request]) for request in "xyz"] == [False, False, True]


# --- floods ---------------------------------------------------------------------------------


@pytest.mark.process
async def test_a_flood_is_read_to_its_end_and_what_is_not_logged_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flood = AT_ONCE * 20
    program = f"import sys\nfor i in range({flood}): print('line', i, file=sys.stderr)"
    process = await spawn([sys.executable, "-c", program], 2)
    before = DROPPED.total
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with caplog.at_level(logging.INFO, "mlx_worker"):
        words = StderrTail(process, clock=lambda: 0.0)
        counting = asyncio.create_task(count_turns())
        await soon(process.wait())
        lines = await soon(words.complete(within=60))
        counting.cancel()
    assert lines[-1] == f"line {flood - 1}"
    assert DROPPED.total - before == flood - AT_ONCE
    assert turns > flood / SLICE / 2
    said = [str(record.msg) for record in caplog.records]
    assert sum(line.startswith("stderr model=") for line in said) == AT_ONCE
    counted = [int(line.rpartition("count=")[2]) for line in said if "lines dropped" in line]
    assert sum(counted) == flood - AT_ONCE


def test_an_allowance_is_refilled_with_time() -> None:
    now = 0.0
    allowance = Allowance(2, 10, lambda: now)
    assert [allowance.try_spend() for _ in range(3)] == [True, True, False]
    now = 0.1
    assert [allowance.try_spend() for _ in range(2)] == [True, False]
    now = 100.0
    assert [allowance.try_spend() for _ in range(3)] == [True, True, False]
    now = 50.0  # a clock that goes back takes nothing away
    assert not allowance.try_spend()


@pytest.mark.process
async def test_the_cause_of_an_end_is_the_last_line_that_is_no_line_of_its_log() -> None:
    logged = json.dumps({"at": "", "level": "debug", "event": "taken in"})
    program = f"import sys; sys.stderr.write('ValueError: no {'x' * 300}\\n' + {logged!r} + '\\n')"
    process = await spawn([sys.executable, "-c", program], 2)
    words = StderrTail(process)
    await soon(process.wait())
    await soon(words.complete(within=5))
    cause = words.cause("exit status 1")
    assert cause.startswith("exit status 1: ValueError: no xxx")
    assert len(cause) == len("exit status 1: ") + MAX_CAUSE
