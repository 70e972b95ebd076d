"""Connections to the port of rank 0: those of its ranks, and those of strangers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from mlx_worker.child.ranks.leading import OtherRanks, RankConnection, check_versions, join_of
from mlx_worker.child.ranks.messages import (
    Join,
    PartFailed,
    PartLoaded,
    PartMeasured,
    PartProgress,
)
from mlx_worker.engine.checks.computation import ComputationFailed
from mlx_worker.engine.ranks.operations import ClearMemory
from mlx_worker.errors import InferenceError, UnservableModel
from mlx_worker.wire.framing import encode
from mlx_worker.wire.kv_cost import KvCost
from mlx_worker.wire.messages import LoadProgress
from mlx_worker.wire.rank_place import RankPlace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.engine.ranks.leading import OperationLog

PLACE = RankPlace(0, 3, "tensor", "127.0.0.1", "secret")
CODE = {"mlx-worker": "1", "mlx-lm": "2", "mlx": "3"}


def part(*, is_cuttable: bool = True, weights: str = "those") -> PartLoaded:
    return PartLoaded(is_cuttable, weights, 7)


@pytest.fixture
def rank() -> Iterator[tuple[socket.socket, RankConnection]]:
    """A rank's end of a connection, and that of rank 0."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, ours:
        yield theirs, RankConnection(ours)


def test_rank_that_names_the_secret_joins(rank: tuple[socket.socket, RankConnection]) -> None:
    theirs, ours = rank
    join = Join(2, "secret", "127.0.0.1:4711", CODE)
    theirs.sendall(encode(join))
    assert join_of(ours, PLACE) == join


@pytest.mark.parametrize(
    "said",
    [
        encode(Join(1, "guess", "127.0.0.1:1", CODE)),
        encode(Join(0, "secret", "127.0.0.1:1", CODE)),
        encode(Join(3, "secret", "127.0.0.1:1", CODE)),
        encode(part(is_cuttable=True)),
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ],
    ids=["guess", "rank 0", "rank beyond", "message", "http", "nothing"],
)
def test_stranger_is_turned_away(rank: tuple[socket.socket, RankConnection], said: bytes) -> None:
    theirs, ours = rank
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    assert join_of(ours, PLACE) is None
    assert theirs.recv(1) == b""


def test_rank_with_other_code_is_refused() -> None:
    join = Join(1, "secret", "127.0.0.1:1", {**CODE, "mlx": "4"})
    with pytest.raises(InferenceError, match="rank 1 has mlx 4, rank 0 has 3"):
        check_versions(join, CODE)


def test_progress_of_a_rank_counts_as_progress_of_the_model(
    rank: tuple[socket.socket, RankConnection],
) -> None:
    theirs, ours = rank
    others = OtherRanks(PLACE, {1: ours})
    for message in (PartProgress(1, 9), part(is_cuttable=False)):
        theirs.sendall(encode(message))
    sent: list[object] = []
    others.wait_until_loaded(sent.extend)
    assert sent == [LoadProgress(1, 9)]
    assert not others.log.are_cuttable
    assert others.weight_bytes == 7


def test_other_weights_on_any_rank_are_another_model(
    rank: tuple[socket.socket, RankConnection],
) -> None:
    theirs, ours = rank
    names = set()
    for weights in ("those", "others"):
        others = OtherRanks(PLACE, {1: ours})
        theirs.sendall(encode(part(weights=weights)))
        others.wait_until_loaded(lambda _: None)
        names |= {others.identity_with("own"), others.identity_with("own, edited")}
    assert len(names) == 4


def test_ranks_that_join_in_another_order_are_the_same_model() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    names = set()
    for order in ((1, 2), (2, 1)):
        connections = {number: RankConnection(pairs[number - 1][0]) for number in order}
        for number in order:
            pairs[number - 1][1].sendall(encode(part(weights=f"part {number}")))
        others = OtherRanks(PLACE, connections)
        others.wait_until_loaded(lambda _: None)
        names.add(others.identity_with("own"))
    for pair in pairs:
        pair[0].close()
        pair[1].close()
    assert len(names) == 1


def append_for_ever(log: OperationLog) -> None:
    while True:
        log.append(ClearMemory())


def test_operation_that_no_rank_gets_is_no_error_of_a_request(
    rank: tuple[socket.socket, RankConnection],
) -> None:
    """A request would be answered with any other error, and the model would go on."""
    theirs, ours = rank
    others = OtherRanks(PLACE, {1: ours})
    theirs.close()
    with pytest.raises(ComputationFailed, match="another rank is gone"):
        append_for_ever(others.log)


@pytest.mark.parametrize(
    ("is_permanent", "kind"), [(True, UnservableModel), (False, InferenceError)]
)
def test_failure_of_a_rank_is_a_failure_of_the_model(
    rank: tuple[socket.socket, RankConnection],
    *,
    is_permanent: bool,
    kind: type[Exception],
) -> None:
    theirs, ours = rank
    theirs.sendall(encode(PartFailed("no heads", is_permanent)))
    with pytest.raises(kind, match="rank 1: no heads"):
        OtherRanks(PLACE, {1: ours}).wait_until_loaded(lambda _: None)


def test_rank_that_is_gone_fails_the_load(rank: tuple[socket.socket, RankConnection]) -> None:
    theirs, ours = rank
    theirs.close()
    with pytest.raises(InferenceError, match="rank 1 was lost while loading"):
        OtherRanks(PLACE, {1: ours}).wait_until_loaded(lambda _: None)


def test_answer_out_of_place_fails_the_load(rank: tuple[socket.socket, RankConnection]) -> None:
    theirs, ours = rank
    theirs.sendall(encode(PartMeasured(KvCost())))
    with pytest.raises(InferenceError, match="rank 1 answered with PartMeasured"):
        OtherRanks(PLACE, {1: ours}).wait_until_loaded(lambda _: None)
