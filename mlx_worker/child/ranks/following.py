"""A rank other than 0: it joins, loads its part, and carries out the operations of rank 0.

While there is no operation, the thread waits in a system call and takes no CPU. [child]
"""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

from mlx_worker.child.fatal import end_process
from mlx_worker.child.ranks.host import folder_on_host, room_for_kv
from mlx_worker.child.ranks.leading import join_group
from mlx_worker.child.ranks.link import prepare_link, watch_link
from mlx_worker.child.ranks.messages import (
    Confirmed,
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
from mlx_worker.engine.ranks.ring import ReservedPort
from mlx_worker.engine.ranks.split import keep_part
from mlx_worker.engine.weights_hash import model_identity
from mlx_worker.errors import (
    BadModelFolder,
    InferenceError,
    ModelNotFoundError,
    UnservableModel,
    WorkerError,
    cause_of,
)
from mlx_worker.models import folder_hash
from mlx_worker.system.process_titles import set_title
from mlx_worker.wire.framing import encode
from mlx_worker.wire.messages import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any, NoReturn

    from mlx_worker.engine.ranks.operations import AnyOperation
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.messages import Load
    from mlx_worker.wire.rank_place import RankPlace

EXIT_LEADER_GONE: Final = 0
EXIT_CANNOT_LOAD: Final = 1

PERMANENT: Final = (ModelNotFoundError, BadModelFolder, UnservableModel)

CHUNK: Final = 1 << 16

CONNECT_SECONDS: Final = 10.0
"""Seconds in which rank 0, which listens already, accepts a connection."""


def follow(
    load: Load,
    place: RankPlace,
    versions: Mapping[str, str],
    send: Callable[[Iterable[WireMessage]], None],
) -> NoReturn:
    """Carry out what rank 0 does, until rank 0 ends or this rank fails.

    The front is told why the rank cannot even join; rank 0 is told what fails later.
    """
    set_title(f"{load.model} rank {place.rank}")
    try:
        folder = folder_on_host(load, place)
        files = folder_hash.sample(folder)
        leader = _connected(place.leader)
    except (WorkerError, OSError) as error:
        send([LoadFailed(cause_of(error), isinstance(error, PERMANENT))])
        os._exit(EXIT_CANNOT_LOAD)
    try:
        with leader:
            _Follower(leader, load, place, folder).run(versions, files)
    except ConnectionError:
        os._exit(EXIT_LEADER_GONE)
    except Exception as error:  # noqa: BLE001  (after any error, this rank's KV is not rank 0's)
        end_process(error)
    os._exit(EXIT_LEADER_GONE)


def _connected(address: str) -> socket.socket:
    """Return a connection to rank 0. Raises InferenceError."""
    host, _, port = address.rpartition(":")
    try:
        leader = socket.create_connection((host, int(port)), CONNECT_SECONDS)
    except OSError as error:
        why = error.strerror or str(error)
        raise InferenceError(f"rank 0 at {address} cannot be reached: {why}") from error
    leader.settimeout(None)
    prepare_link(leader)
    return leader


class _Follower:
    """One rank, from its connection to rank 0 on."""

    def __init__(self, leader: socket.socket, load: Load, place: RankPlace, folder: Path) -> None:
        self._leader = leader
        self._load = load
        self._place = place
        self._folder = folder
        self._kv_room: int | None = None

    def run(self, versions: Mapping[str, str], files: dict[str, str]) -> None:
        """Join, load and follow; return when rank 0 has gone."""
        ring = ReservedPort(self._place.host)
        place = self._place
        self._send(Join(place.rank, place.secret, ring.address, dict(versions), files))
        operations = self._operations()
        begin = next(operations, None)
        if begin is None:
            return
        if not isinstance(begin, Begin):
            raise BadOperation("the first operation names no ring")
        group = join_group(place, begin.ring)
        ring.release()
        model = self._read_part(group)
        settings = batch_settings(self._load.max_concurrency)
        confirm = partial(self._send, Confirmed())
        batch = FollowingBatch(model, on_confirmed=confirm, **settings)
        identity = model_identity(self._folder, model)
        loaded = PartLoaded(is_cuttable(model), identity, weight_bytes(model), self._kv_room)
        self._send(loaded)
        watch_link(self._leader, lambda: os._exit(EXIT_LEADER_GONE))
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
                self._folder,
                on_progress=lambda done, total: self._send(PartProgress(done, total)),
                context_length=self._load.context_length,
                dtype=self._load.dtype,
                keep_part=lambda whole: self._keep_part(whole, group),
            )
        except Exception as error:
            self._send(PartFailed(str(error), isinstance(error, PERMANENT)))
            raise
        return model

    def _keep_part(self, whole: Any, group: Any) -> None:
        keep_part(whole, self._place.split, group)
        self._kv_room = room_for_kv(whole, self._place.settings)

    def _send(self, message: WireMessage) -> None:
        self._leader.sendall(encode(message))
