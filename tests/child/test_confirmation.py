"""When what the engine said leaves a child whose device tells of errors one step late."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.child.confirmed_output import ConfirmedOutput
from mlx_worker.child.failures import failure_of
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.framing import encode
from mlx_worker.wire.output import Done, RowOutput, StepOutput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.wire.base import WireMessage

FIRST, SECOND = (StepOutput([RowOutput(1, [token], "x", [], [])]) for token in (7, 8))


@dataclass
class Gpu:
    """An engine in name: what the output asks of one beside its steps."""

    is_unconfirmed: bool = True
    fails: bool = False
    cache: Any = field(default_factory=lambda: SimpleNamespace(facts=None))

    def confirm(self) -> None:
        if self.fails:
            raise RuntimeError("[METAL] Command buffer execution failed")


class Front:
    """A pipe's other end."""

    def __init__(self) -> None:
        self.heard: list[WireMessage] = []

    def send(self, messages: Iterable[WireMessage]) -> None:
        self.heard += messages


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def front() -> Front:
    return Front()


@pytest.fixture
def output(front: Front) -> ConfirmedOutput:
    return ConfirmedOutput(front.send, goes_on=lambda: False)


def test_a_step_leaves_when_the_next_was_given_to_the_device(
    output: ConfirmedOutput, gpu: Gpu, front: Front
) -> None:
    output.put(gpu, [FIRST])
    assert front.heard == []
    output.on_encoded()
    assert front.heard == [FIRST]
    output.put(gpu, [SECOND])
    output.on_encoded()
    output.on_encoded()
    assert front.heard == [FIRST, SECOND]


def test_the_last_step_leaves_when_the_device_was_asked(
    output: ConfirmedOutput, gpu: Gpu, front: Front
) -> None:
    done = Done(1, "stop", 2, "")
    output.put(gpu, [FIRST])
    gpu.is_unconfirmed = False
    output.put(gpu, [SECOND, done])
    assert front.heard[-1] == done
    steps = [said for said in front.heard if isinstance(said, StepOutput)]
    assert [token for step in steps for token in step.rows[0].tokens] == [7, 8]


def test_what_was_held_back_never_leaves_once_the_device_has_failed(
    output: ConfirmedOutput, gpu: Gpu, front: Front
) -> None:
    output.put(gpu, [FIRST])
    gpu.is_unconfirmed, gpu.fails = False, True
    with pytest.raises(RuntimeError, match="METAL"):
        output.put(gpu, [SECOND])
    assert front.heard == []


def test_a_refusal_with_half_of_a_surrogate_pair_can_be_sent() -> None:
    failed = failure_of(1, InvalidRequest("refused: \ud800", param="a\ud800"))
    assert encode(failed)
    assert failed.message == "refused: \\ud800"
