"""When what the engine said leaves a child whose device tells of errors one step late."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.child.imported_code import ImportedCode
from mlx_worker.child.worker import Service
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire import messages as m
from mlx_worker.wire.framing import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST, SECOND = (m.Step([m.Row(1, [token], "x", [], [])]) for token in (7, 8))


@dataclass
class Gpu:
    """An engine in name: what a service asks of one beside its steps."""

    is_unconfirmed: bool = True
    fails: bool = False
    reads: bool = True
    cache: Any = field(default_factory=lambda: SimpleNamespace(facts=None))

    def confirm(self) -> None:
        if self.fails:
            raise RuntimeError("[METAL] Command buffer execution failed")


class Front:
    """A pipe's other end."""

    def __init__(self) -> None:
        self.heard: list[m.Message] = []

    def send(self, messages: Iterable[m.Message]) -> None:
        self.heard += messages


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def front() -> Front:
    return Front()


@pytest.fixture
def service(gpu: Gpu, front: Front) -> Any:
    made: Any = Service(front, ImportedCode())  # type: ignore[arg-type]
    made._engine = gpu
    return made


def test_a_step_leaves_when_the_next_was_given_to_the_device(
    service: Any, gpu: Gpu, front: Front
) -> None:
    service._say(gpu, [FIRST])
    assert front.heard == []
    service._on_encoded()
    assert front.heard == [FIRST]
    service._say(gpu, [SECOND])
    service._on_encoded()
    service._on_encoded()
    assert front.heard == [FIRST, SECOND]


def test_the_last_step_leaves_when_the_device_was_asked(
    service: Any, gpu: Gpu, front: Front
) -> None:
    done = m.Done(1, "stop", 2, "")
    service._say(gpu, [FIRST])
    gpu.is_unconfirmed = False
    service._say(gpu, [SECOND, done])
    assert front.heard[-1] == done
    steps = [said for said in front.heard if isinstance(said, m.Step)]
    assert [token for step in steps for token in step.rows[0].tokens] == [7, 8]


def test_what_was_held_back_never_leaves_once_the_device_has_failed(
    service: Any, gpu: Gpu, front: Front
) -> None:
    service._say(gpu, [FIRST])
    gpu.is_unconfirmed, gpu.fails = False, True
    with pytest.raises(RuntimeError, match="METAL"):
        service._say(gpu, [SECOND])
    assert front.heard == []


def test_a_refusal_with_half_of_a_surrogate_pair_can_be_sent(service: Any) -> None:
    failed = service._last_word(1, InvalidRequest("refused: \ud800", param="a\ud800"), "")
    assert encode(failed)
    assert failed.message == "refused: \\ud800"
