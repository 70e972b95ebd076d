"""The main job, on the real model: what the README's first command does."""

from __future__ import annotations

import subprocess

import pytest

from tests.processes import COMMAND


@pytest.mark.timeout(600)
def test_the_demo_answers_its_question_through_the_http_api() -> None:
    """Fetches SmolLM2-135M-Instruct (93 MB) into the models folder if it is not there."""
    done = subprocess.run(
        [*COMMAND, "demo", "--once"], capture_output=True, text=True, timeout=590, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris." in done.stdout
    assert "curl -N http://127.0.0.1:" in done.stdout
