"""What is held back on its way to the front, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.child.frame_batcher import EVERY, Outbox
from mlx_worker.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORT = EVERY / 4
PROBABLY = m.TokenLogprobs(m.Choice("x", -0.5), [])


class Sent:
    """An outbox, what left it, and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.frames: list[list[m.Message]] = []
        self.box = Outbox(self.send, lambda: self.now)

    def send(self, messages: Iterable[m.Message]) -> None:
        self.frames.append(list(messages))

    def step(self, *rows: m.Row, after: float = SHORT, goes_on: bool = True) -> None:
        self.now += after
        self.box.put([m.Step(list(rows))], goes_on=goes_on)

    def speaks(self, *ids: int) -> None:
        """These rows have begun: nothing of them is held back."""
        self.step(*(row(id_, "begin") for id_ in ids), goes_on=False)
        self.frames.clear()


@pytest.fixture
def sent() -> Sent:
    return Sent()


def row(id_: int, text: str, *, spans: list[m.Span] | None = None) -> m.Row:
    return m.Row(id_, [7], text, [PROBABLY], spans or [])


def test_steps_that_are_long_are_sent_at_once(sent: Sent) -> None:
    for _ in range(3):
        sent.step(row(1, "a"), after=EVERY)
    assert sent.frames == [[m.Step([row(1, "a")])]] * 3


def test_short_steps_go_up_together_and_none_waits_longer_than_it_may(sent: Sent) -> None:
    sent.speaks(1, 2)
    for text in "abcdefgh":
        sent.step(row(1, text), row(2, text.upper()))
    probably = [PROBABLY] * 4
    first = [m.Row(1, [7] * 4, "abcd", probably), m.Row(2, [7] * 4, "ABCD", probably)]
    later = [m.Row(1, [7] * 4, "efgh", probably), m.Row(2, [7] * 4, "EFGH", probably)]
    assert sent.frames == [[m.Step(first)], [m.Step(later)]]


def test_who_begins_to_speak_does_not_wait(sent: Sent) -> None:
    sent.speaks(1)
    sent.step(row(1, "a"))
    assert sent.frames == []
    sent.step(row(1, "b"), row(2, "new"))
    assert sent.frames == [[m.Step([m.Row(1, [7, 7], "ab", [PROBABLY] * 2), row(2, "new")])]]


def test_what_else_is_said_goes_at_once_behind_what_was_held(sent: Sent) -> None:
    sent.speaks(1)
    sent.step(row(1, "a"))
    done = m.Done(1, "stop", 3, "")
    sent.box.put([m.Step([row(1, "b")]), done], goes_on=True)
    sent.box.put([m.Prefill(2, 5, 10)], goes_on=True)
    held = m.Step([m.Row(1, [7, 7], "ab", [PROBABLY] * 2)])
    assert sent.frames == [[held, done], [m.Prefill(2, 5, 10)]]


def test_nothing_is_held_before_a_step_that_takes_longer(sent: Sent) -> None:
    sent.speaks(1)
    sent.step(row(1, "a"), goes_on=False)
    sent.step(row(1, "b"))
    sent.box.put([], goes_on=False)
    sent.box.put([], goes_on=False)
    assert sent.frames == [[m.Step([row(1, "a")])], [m.Step([row(1, "b")])]]


def test_spans_and_content_keep_their_order(sent: Sent) -> None:
    sent.speaks(1)
    thought, call = m.Reasoning("hm"), m.ToolCall("id", "name", "{}")
    sent.step(row(1, "a"))
    sent.step(row(1, "b", spans=[thought]))
    sent.step(row(1, "c", spans=[call]))
    sent.box.put([], goes_on=False)
    ((step,),) = sent.frames
    assert isinstance(step, m.Step)
    (joined,) = step.rows
    assert (joined.spans, joined.text) == (["a", thought, "b", call], "c")
    assert len(joined.tokens) == len(joined.logprobs) == 3


def test_nothing_said_is_nothing_sent(sent: Sent) -> None:
    sent.box.put([], goes_on=False)
    assert sent.frames == []
