"""What is told of the error that ended a child."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlx_worker.child.fatal import EXIT_COMPUTATION_FAILED, REASON, reason_of
from mlx_worker.engine.checks.computation import ComputationFailed, computing
from mlx_worker.errors import KvTooLarge
from mlx_worker.logs import COMPUTATION_FAILED, parse_line

ENDING = """
from mlx_worker.child.fatal import end_process
try:
    raise RuntimeError("[METAL] Command buffer execution failed: kIOGPUCommandBufferCallbackErrorX")
except RuntimeError as error:
    end_process(error)
"""


def test_what_mlx_says_is_told_and_what_others_say_is_not() -> None:
    assert reason_of(ComputationFailed("garbage logits")) == "garbage logits"
    assert reason_of(RuntimeError("[METAL] failed\nmore")) == "RuntimeError: [METAL] failed"
    assert reason_of(ValueError("words of a prompt")) == "ValueError"
    assert len(reason_of(RuntimeError("x" * 10_000))) == REASON


def test_an_error_in_mlx_is_fatal_and_a_requests_own_is_not() -> None:
    with pytest.raises(KvTooLarge), computing():
        raise KvTooLarge("3 GB")
    with pytest.raises(ComputationFailed, match="ValueError") as caught, computing():
        raise ValueError("words of a prompt")
    assert "words" not in str(caught.value)


@pytest.mark.process
def test_the_end_has_a_status_of_its_own_and_its_reason_on_stderr() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDING], stderr=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == EXIT_COMPUTATION_FAILED
    said = parse_line(ended.stderr.strip())
    assert said is not None
    assert said[1].event == COMPUTATION_FAILED
    assert "kIOGPUCommandBufferCallbackErrorX" in said[1].facts["reason"]
    assert "kIOGPUCommandBufferCallbackErrorX" in str(said[1])
