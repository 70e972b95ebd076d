"""Real models in a node without enough memory for all of them: nothing fails, the memory holds.

`tox -e soak` has 20 switches to another model.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from mlx_worker.supervisor.memory.policy import PROCESS_BYTES
from tests.processes import running_node
from tests.rounds import rounds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import RunningNode

LIMIT = 300_000_000
"""Two processes of about 120 MB fit, under coverage too; three do not."""

BLOCKS = rounds(4, 6, 20)
REQUESTS = 10


def resident(node: RunningNode) -> int:
    """Bytes of all children, as the system counts them."""
    return sum(child.memory_info().rss for child in node.children() if child.is_running())


@pytest.mark.full
@pytest.mark.timeout(60 + 15 * BLOCKS)  # so many processes start, one after the other
def test_three_models_of_which_two_fit_are_used_in_turn(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {}
    for name in "abc":
        models[name] = shutil.copytree(nano, tmp_path / name)
    supervisor = f"memory_limit = {LIMIT}\nload_wait = 600"
    failed, most, peaks = 0, 0, []
    with running_node(tmp_path, models, supervisor=supervisor, extra="preload = false") as node:
        for block in range(BLOCKS):
            name = "abc"[block % 3]
            peak = 0
            for turn in range(REQUESTS):
                body = {
                    "model": name,
                    "messages": [{"role": "user", "content": f"turn {turn} of block {block}"}],
                    "max_tokens": 8,
                }
                failed += node.ask("/v1/chat/completions", body).status != 200
                peak = max(peak, resident(node))
            peaks.append((name, peak))
            running = [item for item in "abc" if node.model(item)["pid"] is not None]
            most = max(most, len(running))
        starts = sum(node.model(name)["restarts"] + 1 for name in models)
        memory = node.ask("/health").json["memory"]
    table = [f"{'block':>5} {'model':>5} {'peak MB':>8}   (limit {LIMIT / 1e6:.0f} MB)"]
    table += [f"{i:5} {name:>5} {peak / 1e6:8.1f}" for i, (name, peak) in enumerate(peaks)]
    table += [f"requests {BLOCKS * REQUESTS}, failed {failed}, starts {starts}"]
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(table) + "\n")
    assert failed == 0
    assert most == 2
    assert starts == BLOCKS
    assert max(peak for _, peak in peaks) <= LIMIT
    assert memory["pressure"] == "calm"


@pytest.mark.full
def test_a_prompt_whose_kv_would_never_fit_is_a_400_with_the_numbers(
    nano: Path, tmp_path: Path
) -> None:
    weights = (nano / "model.safetensors").stat().st_size
    limit = PROCESS_BYTES + weights + (256 << 10)  # nano's KV is 256 bytes a token
    with running_node(tmp_path, {"nano": nano}, supervisor=f"memory_limit = {limit}") as node:
        node.wait_until_ready()
        body = {"messages": [{"role": "user", "content": "hello " * 800}], "max_tokens": 2000}
        for stream in (False, True):
            answer = node.ask("/v1/chat/completions", body | {"stream": stream})
            assert answer.status == 400
            error = answer.json["error"]
            assert (error["code"], error["param"]) == ("kv_too_large", "max_tokens")
            assert "KB" in error["message"]
        fitting = node.ask(
            "/v1/chat/completions", body | {"messages": [{"role": "user", "content": "hello"}]}
        )
        assert fitting.status == 200
