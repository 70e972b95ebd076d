"""One rank of a model, in a process of its own: `PLAY FOLDER SPLIT RANK FDS ADDRESS…`.

`FDS`, joined by commas, are sockets of operations: to each other rank, or else to rank 0. Rank 0
calls the function `PLAY` of `scenarios` and prints what it returns as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_worker.engine.batch import batch_settings
from mlx_worker.engine.batch_support import is_cuttable
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.ranks.following import FollowingBatch
from mlx_worker.engine.ranks.leading import OperationLog
from mlx_worker.engine.ranks.operations import operation_frames
from mlx_worker.engine.ranks.ring import join_ring
from mlx_worker.engine.ranks.split import keep_part
from tests.engine.ranks import scenarios
from tests.engine.ranks.scenarios import CONCURRENCY

if TYPE_CHECKING:
    from mlx_worker.wire.rank_place import Split

CONFIRMED = b"c"


def main() -> None:
    play, folder, kind, rank, fds, *addresses = sys.argv[1:]
    split: Split = "pipeline" if kind == "pipeline" else "tensor"
    sockets = [socket.socket(fileno=int(fd)) for fd in fds.split(",")]
    group = join_ring(int(rank), addresses)
    model, tokenizer, _ = read_model(
        Path(folder), dtype="float32", keep_part=lambda whole: keep_part(whole, split, group)
    )
    parts = mx.distributed.all_sum(mx.array(int(is_cuttable(model))))
    are_cuttable = bool(parts.item() == group.size())
    if group.rank() > 0:
        confirm = partial(sockets[0].sendall, CONFIRMED)
        follow(
            FollowingBatch(model, on_confirmed=confirm, **batch_settings(CONCURRENCY)), sockets[0]
        )
        return

    def send(data: bytes) -> None:
        for other in sockets:
            other.sendall(data)

    def wait() -> None:
        for other in sockets:
            if other.recv(1) != CONFIRMED:
                raise ConnectionError("the connection was closed")

    log = OperationLog(send, wait, are_cuttable=are_cuttable)
    engine = Engine(
        model,
        tokenizer,
        context_length=8192,
        max_concurrency=CONCURRENCY,
        ranks=log,
    )
    print(json.dumps(getattr(scenarios, play)(engine, tokenizer)))  # noqa: T201
    log.confirm()  # no rank has work left whose collectives need this one


def follow(batch: FollowingBatch, log: socket.socket) -> None:
    frames = operation_frames()
    while data := log.recv(1 << 16):
        for operation in frames.feed(data):
            batch.carry_out(operation)


if __name__ == "__main__":
    main()
