"""What processes leave on their stderr, and what it says of the device."""

import sys

import pytest

from mlx_worker.supervisor.last_words import KEPT, LONGEST, DeviceErrors, LastWords, device_error
from mlx_worker.supervisor.process import spawn
from tests.scripted import soon

HANG = "kIOGPUCommandBufferCallbackErrorHang"
METAL = (
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command "
    f"buffer execution failed: Caused GPU Hang Error (00000003:{HANG})"
)
FULL = "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"


async def written(program: str) -> list[str]:
    process = await spawn([sys.executable, "-c", program], 2)
    words = LastWords(process)
    await soon(process.wait())
    return await soon(words.complete(within=5))


async def test_the_last_lines_are_kept_however_they_come() -> None:
    lines = await written(
        "import sys, os\n"
        f"for i in range({KEPT} + 20): print('line', i, file=sys.stderr)\n"
        "os.write(2, b'\\n\\xff half'); os.write(2, b' a line, and no end')"
    )
    assert len(lines) == KEPT
    assert lines[0] == "line 21"
    assert lines[-1] == "\ufffd half a line, and no end"


async def test_a_line_that_never_ends_is_kept_in_pieces() -> None:
    lines = await written(f"import sys; sys.stderr.write('x' * {LONGEST * 3 + 7})")
    assert [len(line) for line in lines] == [LONGEST, LONGEST, LONGEST, 7]


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
    assert [errors.ended(it) for it in ("a", "a", "b", "b", "", "b", "b")] == [False] * 7
    assert errors.ended("b")
    assert errors.ended("b")
    errors.forget()
    assert not errors.ended("b")
