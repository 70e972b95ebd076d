"""A real child reads from disk what the child before has written, and wakes when it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.wire.messages import Leave, Started
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.prompt_cache import PromptWarmed, Warm
from tests.child.test_leaving import LONG, PATIENCE, child_with_disk, in_session

if TYPE_CHECKING:
    from pathlib import Path

    from tests.child.test_child import Front

ANSWER = 8


def answer_of(front: Front) -> tuple[Started, list[int]]:
    received = front.receive_until(Done)
    (started,) = [message for message in received if isinstance(message, Started)]
    steps = [message for message in received if isinstance(message, StepOutput)]
    return started, [token for step in steps for row in step.rows for token in row.tokens]


def test_a_child_reads_the_prompts_of_the_child_before_from_disk(
    tiny: Path, tmp_path: Path
) -> None:
    with child_with_disk(tiny, tmp_path / "kv") as front:
        front.send(Warm(1, LONG))
        warmed = front.receive(PromptWarmed).tokens
        front.send(in_session(2, LONG, ANSWER))
        first, tokens = answer_of(front)
        front.send(Leave(PATIENCE))
        assert front.process.wait(PATIENCE) == 0
    with child_with_disk(tiny, tmp_path / "kv") as front:
        front.send(in_session(1, LONG, ANSWER))
        again, tokens_again = answer_of(front)
        front.send(Warm(2, LONG))
        assert front.receive(PromptWarmed).tokens == warmed
        assert front.process.poll() is None
    assert (first.disk_tokens, first.disk_records) == (0, [])
    assert again.disk_tokens == again.cached_tokens > 0
    assert {len(name) for name in again.disk_records} == {33}
    assert tokens_again == tokens
