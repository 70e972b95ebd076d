"""What is held back on its way to the front, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.child.frame_batcher import EVERY, FrameBatcher
from mlx_worker.wire.messages import PrefillProgress
from mlx_worker.wire.output import (
    Done,
    ReasoningText,
    RowOutput,
    Span,
    StepOutput,
    TokenChoice,
    TokenLogprobs,
    ToolCall,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.wire.base import WireMessage

SHORT = EVERY / 4
PROBABLY = TokenLogprobs(TokenChoice("x", -0.5), [])


class Sent:
    """An outbox, what left it, and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.frames: list[list[WireMessage]] = []
        self.box = FrameBatcher(self.send, lambda: self.now)

    def send(self, messages: Iterable[WireMessage]) -> None:
        self.frames.append(list(messages))

    def step(self, *rows: RowOutput, after: float = SHORT, goes_on: bool = True) -> None:
        self.now += after
        self.box.put([StepOutput(list(rows))], goes_on=goes_on)

    def speaks(self, *ids: int) -> None:
        """These rows have begun: nothing of them is held back."""
        self.step(*(row(id_, "begin") for id_ in ids), goes_on=False)
        self.frames.clear()


@pytest.fixture
def sent() -> Sent:
    return Sent()


def row(id_: int, text: str, *, spans: list[Span] | None = None) -> RowOutput:
    return RowOutput(id_, [7], text, [PROBABLY], spans or [])


def test_steps_that_are_long_are_sent_at_once(sent: Sent) -> None:
    for _ in range(3):
        sent.step(row(1, "a"), after=EVERY)
    assert sent.frames == [[StepOutput([row(1, "a")])]] * 3


def test_short_steps_go_up_together_and_none_waits_longer_than_it_may(sent: Sent) -> None:
    sent.speaks(1, 2)
    for text in "abcdefgh":
        sent.step(row(1, text), row(2, text.upper()))
    probably = [PROBABLY] * 4
    first = [RowOutput(1, [7] * 4, "abcd", probably), RowOutput(2, [7] * 4, "ABCD", probably)]
    later = [RowOutput(1, [7] * 4, "efgh", probably), RowOutput(2, [7] * 4, "EFGH", probably)]
    assert sent.frames == [[StepOutput(first)], [StepOutput(later)]]


def test_who_begins_to_speak_does_not_wait(sent: Sent) -> None:
    sent.speaks(1)
    sent.step(row(1, "a"))
    assert sent.frames == []
    sent.step(row(1, "b"), row(2, "new"))
    assert sent.frames == [
        [StepOutput([RowOutput(1, [7, 7], "ab", [PROBABLY] * 2), row(2, "new")])]
    ]


def test_what_else_is_said_goes_at_once_behind_what_was_held(sent: Sent) -> None:
    sent.speaks(1)
    sent.step(row(1, "a"))
    done = Done(1, "stop", 3, "")
    sent.box.put([StepOutput([row(1, "b")]), done], goes_on=True)
    sent.box.put([PrefillProgress(2, 5, 10)], goes_on=True)
    held = StepOutput([RowOutput(1, [7, 7], "ab", [PROBABLY] * 2)])
    assert sent.frames == [[held, done], [PrefillProgress(2, 5, 10)]]


def test_nothing_is_held_before_a_step_that_takes_longer(sent: Sent) -> None:
    sent.speaks(1)
    sent.step(row(1, "a"), goes_on=False)
    sent.step(row(1, "b"))
    sent.box.put([], goes_on=False)
    sent.box.put([], goes_on=False)
    assert sent.frames == [[StepOutput([row(1, "a")])], [StepOutput([row(1, "b")])]]


def test_spans_and_content_keep_their_order(sent: Sent) -> None:
    sent.speaks(1)
    thought, call = ReasoningText("hm"), ToolCall("id", "name", "{}")
    sent.step(row(1, "a"))
    sent.step(row(1, "b", spans=[thought]))
    sent.step(row(1, "c", spans=[call]))
    sent.box.put([], goes_on=False)
    ((step,),) = sent.frames
    assert isinstance(step, StepOutput)
    (joined,) = step.rows
    assert joined.spans == ["a", thought, "b", call, "c"]
    assert len(joined.tokens) == len(joined.logprobs) == 3


def test_nothing_said_is_nothing_sent(sent: Sent) -> None:
    sent.box.put([], goes_on=False)
    assert sent.frames == []
