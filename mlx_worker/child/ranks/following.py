"""A rank other than 0: it joins, loads its part, and carries out the operations of rank 0.

While there is no operation, the thread waits in a system call and takes no CPU. [child]
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.child.fatal import end_process
from mlx_worker.child.ranks.messages import (
    Join,
    PartFailed,
    PartLoaded,
    PartMeasured,
    PartProgress,
)
from mlx_worker.engine.batch import batch_settings
from mlx_worker.engine.batch_support import is_cuttable
from mlx_worker.engine.kv.cost import measure_kv_cost
from mlx_worker.engine.loading import read_model, weight_bytes
from mlx_worker.engine.ranks.following import FollowingBatch
from mlx_worker.engine.ranks.operations import (
    BadOperation,
    Begin,
    MeasureKv,
    operation_frames,
)
from mlx_worker.engine.ranks.ring import ReservedPort, join_ring
from mlx_worker.engine.ranks.split import keep_part
from mlx_worker.engine.weights_hash import model_identity
from mlx_worker.errors import BadModelFolder, ModelNotFoundError, UnservableModel
from mlx_worker.system.process_titles import set_title
from mlx_worker.wire.framing import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, NoReturn

    from mlx_worker.engine.ranks.operations import AnyOperation
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.messages import Load
    from mlx_worker.wire.rank_place import RankPlace

EXIT_LEADER_GONE: Final = 0
EXIT_CANNOT_LOAD: Final = 1

PERMANENT: Final = (ModelNotFoundError, BadModelFolder, UnservableModel)

CHUNK: Final = 1 << 16


def follow(load: Load, place: RankPlace, versions: Mapping[str, str]) -> NoReturn:
    """Carry out what rank 0 does, until rank 0 ends or this rank fails."""
    set_title(f"{load.model} rank {place.rank}")
    try:
        host, _, port = place.leader.rpartition(":")
        with socket.create_connection((host, int(port))) as leader:
            leader.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Follower(leader, load, place).run(versions)
    except ConnectionError:
        os._exit(EXIT_LEADER_GONE)
    except Exception as error:  # noqa: BLE001  (after any error, this rank's KV is not rank 0's)
        end_process(error)
    os._exit(EXIT_LEADER_GONE)


class _Follower:
    """One rank, from its connection to rank 0 on."""

    def __init__(self, leader: socket.socket, load: Load, place: RankPlace) -> None:
        self._leader = leader
        self._load = load
        self._place = place

    def run(self, versions: Mapping[str, str]) -> None:
        """Join, load and follow; return when rank 0 has gone."""
        ring = ReservedPort(self._place.host)
        self._send(Join(self._place.rank, self._place.secret, ring.address, dict(versions)))
        operations = self._operations()
        begin = next(operations, None)
        if begin is None:
            return
        if not isinstance(begin, Begin):
            raise BadOperation("the first operation names no ring")
        group = join_ring(self._place.rank, begin.ring)
        ring.release()
        model = self._read_part(group)
        batch = FollowingBatch(model, **batch_settings(self._load.max_concurrency))
        identity = model_identity(Path(self._load.path), model)
        self._send(PartLoaded(is_cuttable(model), identity, weight_bytes(model)))
        for operation in operations:
            if isinstance(operation, MeasureKv):
                self._send(PartMeasured(measure_kv_cost(model)))
            else:
                batch.carry_out(operation)

    def _operations(self) -> Iterator[AnyOperation]:
        frames = operation_frames()
        while data := self._leader.recv(CHUNK):
            yield from frames.feed(data)

    def _read_part(self, group: Any) -> Any:
        try:
            model, _, _ = read_model(
                Path(self._load.path),
                on_progress=lambda done, total: self._send(PartProgress(done, total)),
                context_length=self._load.context_length,
                dtype=self._load.dtype,
                keep_part=lambda whole: keep_part(whole, self._place.split, group),
            )
        except Exception as error:
            self._send(PartFailed(str(error), isinstance(error, PERMANENT)))
            raise
        return model

    def _send(self, message: WireMessage) -> None:
        self._leader.sendall(encode(message))
