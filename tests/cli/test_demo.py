"""The main job, on the real model: what the README's first command does."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.processes import COMMAND

ANSWER = "The capital of France is Paris."


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_demo_answers_its_question_through_the_http_api() -> None:
    """Fetches SmolLM2-135M-Instruct (93 MB) into the models folder if it is not there."""
    done = subprocess.run(
        [*COMMAND, "demo", "--once"], capture_output=True, text=True, timeout=590, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
    assert "curl" not in done.stdout, "the node has ended"


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_demo_serves_on_and_each_curl_line_that_it_prints_works() -> None:
    with subprocess.Popen([*COMMAND, "demo"], stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            lines: list[str] = []
            while sum("curl " in line for line in lines) < 3:
                line = demo.stdout.readline()
                assert line, lines
                lines.append(line)
            for line in lines[-3:]:
                subprocess.run(["sh", "-c", f"{line.strip()} -sSf"], check=True, timeout=100)
        finally:
            demo.send_signal(signal.SIGINT)
    assert demo.returncode == 0
    text = "".join(lines)
    assert ANSWER in text
    assert "ctrl-C here ends the demo" in text
