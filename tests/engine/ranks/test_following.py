"""Operations that a rank cannot carry out, or that show other rows than those of rank 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.batch import batch_settings
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.ranks.digest import digest_of
from mlx_worker.engine.ranks.following import Diverged, FollowingBatch
from mlx_worker.engine.ranks.leading import OperationLog
from mlx_worker.engine.ranks.operations import (
    BadOperation,
    Begin,
    ClearMemory,
    Compare,
    Copy,
    Extract,
    Free,
    Insert,
    Step,
    operation_frames,
)

if TYPE_CHECKING:
    from pathlib import Path

ROW = Insert([[5, 6, 7, 8]], 20, 0, [], [], False)


@pytest.fixture(scope="module")
def model(nano: Path) -> Any:
    return read_model(nano)[0]


@pytest.fixture
def batch(model: Any) -> FollowingBatch:
    return FollowingBatch(model, **batch_settings(4))


def test_rows_that_both_have_compare_equal(batch: FollowingBatch, model: Any) -> None:
    other = FollowingBatch(model, **batch_settings(4))
    for operation in (ROW, Step(16, 1), Step(16, 1), Extract(0, 1), Copy(1, 2, 2)):
        batch.carry_out(operation)
        other.carry_out(operation)
    batch.carry_out(Compare(digest_of(other, [1, 2])))


@pytest.mark.parametrize("more", [ROW, Step(16, 1), Extract(0, 2), Free([1])])
def test_any_other_operation_shows_in_the_digest(
    batch: FollowingBatch, model: Any, more: Any
) -> None:
    other = FollowingBatch(model, **batch_settings(4))
    for operation in (ROW, Step(16, 1), Step(16, 1), Extract(0, 1)):
        batch.carry_out(operation)
        other.carry_out(operation)
    other.carry_out(more)
    with pytest.raises(Diverged):
        batch.carry_out(Compare(digest_of(other, sorted(other.handles))))


@pytest.mark.parametrize("operation", [Copy(9, 0, 10), Free([9]), Begin([])])
def test_operation_on_what_is_not_there_is_refused(batch: FollowingBatch, operation: Any) -> None:
    with pytest.raises(BadOperation):
        batch.carry_out(operation)


def test_kv_of_a_row_that_is_not_there_is_a_divergence(batch: FollowingBatch) -> None:
    with pytest.raises(Diverged):
        batch.carry_out(Extract(3, 1))


def test_dropped_kv_is_freed_before_the_next_operation() -> None:
    sent: list[Any] = []
    frames = operation_frames()
    log = OperationLog(lambda data: sent.extend(frames.feed(data)))
    kept, dropped = log.own([]), log.own([])
    handle = dropped.handle
    del dropped
    log.append(Step(16, log.next_handle))
    assert sent == [Free([handle]), Step(16, 3)]
    assert kept.handle


def test_kv_dropped_during_a_comparison_is_freed_behind_it(batch: FollowingBatch) -> None:
    """A collection of garbage may come at any time, on any thread."""
    sent: list[Any] = []
    frames = operation_frames()
    log = OperationLog(lambda data: sent.extend(frames.feed(data)))
    log.append(ROW)
    log.append(Step(16, log.next_handle))
    held = [log.own([])]
    log.append(Extract(0, held[0].handle))
    for operation in sent:
        batch.carry_out(operation)
    sent.clear()

    class Compared:
        """The batch of rank 0, at whose digest KV is dropped."""

        _generation_batch = batch._generation_batch
        _unprocessed_sequences = batch._unprocessed_sequences

        @property
        def _prompt_batch(self) -> Any:
            held.clear()
            return batch._prompt_batch

    log.compare(Compared())
    log.append(ClearMemory())
    assert [type(operation) for operation in sent] == [Compare, Free, ClearMemory]
    for operation in sent:
        batch.carry_out(operation)
