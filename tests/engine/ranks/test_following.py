"""Operations that a rank cannot carry out, or that show other rows than those of rank 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.batch import batch_settings
from mlx_worker.engine.checks.computation import ComputationFailed
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.output.end_tokens import EndTokens
from mlx_worker.engine.ranks.digest import digest_of
from mlx_worker.engine.ranks.following import Diverged, FollowingBatch
from mlx_worker.engine.ranks.leading import LeadingBatch, OperationLog
from mlx_worker.engine.ranks.operations import (
    BadOperation,
    Begin,
    ClearMemory,
    Compare,
    Confirm,
    Copy,
    Extract,
    Free,
    Insert,
    Step,
    operation_frames,
)
from mlx_worker.engine.sampling import RowSampler
from mlx_worker.wire.request import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROW = Insert([[5, 6, 7, 8]], 20, 0, [], [], False)


@pytest.fixture(scope="module")
def model(nano: Path) -> Any:
    return read_model(nano)[0]


@pytest.fixture
def batch(model: Any) -> FollowingBatch:
    return FollowingBatch(model, on_confirmed=lambda: None, **batch_settings(4))


def test_rows_that_both_have_compare_equal(batch: FollowingBatch, model: Any) -> None:
    other = FollowingBatch(model, on_confirmed=lambda: None, **batch_settings(4))
    for operation in (ROW, Step(16, 1), Step(16, 1), Extract(0, 1), Copy(1, 2, 2)):
        batch.carry_out(operation)
        other.carry_out(operation)
    batch.carry_out(Compare(digest_of(other, [1, 2])))


@pytest.mark.parametrize("more", [ROW, Step(16, 1), Extract(0, 2), Free([1])])
def test_any_other_operation_shows_in_the_digest(
    batch: FollowingBatch, model: Any, more: Any
) -> None:
    other = FollowingBatch(model, on_confirmed=lambda: None, **batch_settings(4))
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


def test_every_decoding_step_is_confirmed_once_and_so_is_a_question(model: Any) -> None:
    confirmed: list[int] = []
    following = FollowingBatch(
        model, on_confirmed=lambda: confirmed.append(following.steps), **batch_settings(4)
    )
    following.carry_out(ROW)
    for _ in range(5):  # the first two read the prompt
        following.carry_out(Step(16, 1))
    assert confirmed == [3, 4, 5]
    following.carry_out(Confirm())
    assert confirmed == [3, 4, 5, 5]


def test_output_of_a_step_is_let_go_once_all_ranks_have_confirmed(model: Any) -> None:
    told: list[str] = []
    log = OperationLog(lambda _: None, wait=lambda: told.append("confirmed"))
    batch = leading(model, log, lambda: told.append("let go"))
    for _ in range(5):
        batch.next()
    assert told == ["confirmed", "let go"] * 3
    told.clear()
    batch.confirm()
    assert told == ["confirmed"]


def test_no_output_is_let_go_where_a_rank_is_gone_instead_of_confirming(model: Any) -> None:
    told: list[str] = []

    def lose() -> None:
        raise ConnectionError("the connection was closed")

    batch = leading(model, OperationLog(lambda _: None, wait=lose), lambda: told.append("let go"))
    batch.next()
    batch.next()
    with pytest.raises(ComputationFailed, match="another rank is gone: the connection was closed"):
        batch.next()
    with pytest.raises(ComputationFailed):
        batch.confirm()
    assert not told


def leading(model: Any, log: OperationLog, on_encoded: Callable[[], None]) -> LeadingBatch:
    """Return the batch of rank 0 with one row."""
    batch = LeadingBatch(
        model, log, on_read=lambda *_: None, on_encoded=on_encoded, **batch_settings(4)
    )
    sampler = RowSampler(Sampling(seed=0, temperature=0), 1)
    batch.insert_segments(
        [[[5, 6, 7, 8]]],
        [20],
        caches=[None],
        all_tokens=[[]],
        samplers=[sampler],
        stop_sequences=[EndTokens([])],
    )
    return batch


def test_dropped_kv_is_freed_before_the_next_operation() -> None:
    sent: list[Any] = []
    frames = operation_frames()
    log = OperationLog(lambda data: sent.extend(frames.feed(data)), wait=lambda: None)
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
    log = OperationLog(lambda data: sent.extend(frames.feed(data)), wait=lambda: None)
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
