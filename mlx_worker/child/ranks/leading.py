"""Rank 0 and the other ranks of its model: how they come together, load, and get its operations.

Rank 0 listens at a port that the system chooses, and tells the front. The others connect, each with
the secret of the front and with the address of its own part of the ring. Once all are there, rank 0
names the whole ring. The same connections carry the operations from then on. [child]
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.child.fatal import end_process
from mlx_worker.child.ranks.link import prepare_link, watch_link
from mlx_worker.child.ranks.messages import (
    Confirmed,
    Join,
    PartFailed,
    PartLoaded,
    PartMeasured,
    PartProgress,
    frames_from_rank,
)
from mlx_worker.engine.checks.computation import ComputationFailed
from mlx_worker.engine.kv.cost import measure_kv_cost
from mlx_worker.engine.ranks.jaccl import check_jaccl, join_jaccl
from mlx_worker.engine.ranks.leading import OperationLog
from mlx_worker.engine.ranks.operations import Begin, MeasureKv
from mlx_worker.engine.ranks.ring import JOIN_SECONDS, ReservedPort, join_ring
from mlx_worker.engine.ranks.split import keep_part
from mlx_worker.errors import InferenceError, ProtocolViolation, UnservableModel
from mlx_worker.logs import Entry
from mlx_worker.models import folder_hash
from mlx_worker.wire.messages import Gathering, LoadProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from mlx_worker.child.ranks.messages import FromRank
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.kv_cost import KvCost
    from mlx_worker.wire.messages import Load
    from mlx_worker.wire.rank_place import RankPlace

log = logging.getLogger(__name__)

CHUNK: Final = 1 << 16
SOME_TOKENS: Final = 4096
"""The length of a row by which the costs of KV on several ranks are compared."""

SECRET_SECONDS: Final = 5.0
"""Seconds in which a connection has to name the secret: any program may connect."""


class RankConnection:
    """The connection of rank 0 to another rank."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._frames = frames_from_rank()
        self._received: list[FromRank] = []

    def receive(self) -> FromRank:
        """Wait for the next message. Raises OSError or ProtocolViolation."""
        while not self._received:
            if not (data := self.socket.recv(CHUNK)):
                raise ConnectionError("the connection was closed")
            self._received += self._frames.feed(data)
        return self._received.pop(0)


class OtherRanks:
    """The other ranks of a model that rank 0 loads and serves."""

    def __init__(self, place: RankPlace, connections: Mapping[int, RankConnection]) -> None:
        self._place = place
        self._connections = connections
        self._group: Any = None
        self._parts: list[PartLoaded] = []
        self.log = OperationLog(self._send, self._wait_until_confirmed)

    @classmethod
    def gather(
        cls,
        place: RankPlace,
        folder: Path,
        versions: Mapping[str, str],
        send: Callable[[Iterable[WireMessage]], None],
    ) -> OtherRanks:
        """Wait until all have joined, and form the ring with them.

        Raises InferenceError, or UnservableModel where mlx has no such transport.
        """
        if place.transport == "jaccl":
            check_jaccl()
        ours = ReservedPort(place.host)
        with socket.create_server((place.host, 0)) as server:
            send([Gathering(server.getsockname()[1])])
            files = folder_hash.sample(folder)
            joined: dict[int, tuple[Join, RankConnection]] = {}
            while len(joined) < place.ranks - 1:
                connection = RankConnection(server.accept()[0])
                join = join_of(connection, place)
                if join is not None:
                    check_versions(join, versions)
                    check_files(join, files)
                    joined[join.rank] = (join, connection)
        others = cls(place, {rank: connection for rank, (_, connection) in joined.items()})
        ring = [ours.address, *(joined[rank][0].ring for rank in range(1, place.ranks))]
        others.log.append(Begin(ring))
        others.join(ring)
        ours.release()
        return others

    def join(self, ring: list[str]) -> None:
        """Form the ring. Raises InferenceError."""
        try:
            self._group = join_group(self._place, ring)
        except RuntimeError as error:
            raise InferenceError(f"the ranks cannot reach each other: {error}") from error

    def keep_part(self, model: Any) -> None:
        """Reduce a model to the part of rank 0. Raises UnservableModel."""
        keep_part(model, self._place.split, self._group)

    def wait_until_loaded(self, send: Callable[[Iterable[WireMessage]], None]) -> None:
        """Wait until each rank has its part, and report its progress.

        Raises UnservableModel or InferenceError with the reason of a rank that cannot load.
        """
        for rank in sorted(self._connections):  # they came in any order
            while isinstance(message := self._receive(rank), PartProgress):
                send([LoadProgress(message.done, message.total)])
            if not isinstance(message, PartLoaded):
                raise _out_of_place(rank, message)
            self.log.are_cuttable &= message.is_cuttable
            self._parts.append(message)

    def watch(self) -> None:
        """End the process from now on when a rank is gone: a collective would wait for ever."""
        for rank, connection in self._connections.items():
            watch_link(connection.socket, partial(_end_without, rank))

    def within_room(self, load: Load) -> Load:
        """Return what to load with a KV budget that every rank's host has room for."""
        rooms = [part.kv_room for part in self._parts if part.kv_room is not None]
        return msgspec.structs.replace(load, kv_bytes=min([load.kv_bytes, *rooms]))

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the weights that the other ranks have in memory."""
        return sum(part.weight_bytes for part in self._parts)

    def identity_with(self, own: str) -> str:
        """Return what names the model of all ranks, by the name of the part of rank 0.

        An answer continues after a restart only if no rank has other weights than before.
        """
        names = [own, *(part.weights for part in self._parts)]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def measure_kv_cost(self, model: Any) -> KvCost:
        """Return what a row costs on the rank where it costs most, in a forward of all ranks."""
        self.log.append(MeasureKv())
        costs = [measure_kv_cost(model), *map(self._cost_on, self._connections)]
        return max(costs, key=lambda cost: cost.nbytes(SOME_TOKENS))

    def _cost_on(self, rank: int) -> KvCost:
        message = self._receive(rank)
        if not isinstance(message, PartMeasured):
            raise _out_of_place(rank, message)
        return message.kv

    def _receive(self, rank: int) -> FromRank:
        """Wait for the next message of a rank. Raises the error of one that cannot load."""
        try:
            message = self._connections[rank].receive()
        except (OSError, ProtocolViolation) as error:
            raise InferenceError(f"rank {rank} was lost while loading: {error}") from error
        if isinstance(message, PartFailed):
            kind = UnservableModel if message.permanent else InferenceError
            raise kind(f"rank {rank}: {message.reason}")
        return message

    def _send(self, data: bytes) -> None:
        for connection in self._connections.values():
            connection.socket.sendall(data)

    def _wait_until_confirmed(self) -> None:
        for rank, connection in self._connections.items():
            if not isinstance(message := connection.receive(), Confirmed):
                raise ProtocolViolation(f"rank {rank} answered with {type(message).__name__}")


def join_of(connection: RankConnection, place: RankPlace) -> Join | None:
    """Return what a new connection joins as; None for a stranger, whose connection is closed."""
    prepare_link(connection.socket)
    connection.socket.settimeout(SECRET_SECONDS)
    try:
        join = connection.receive()
    except (OSError, ProtocolViolation):
        join = None
    connection.socket.settimeout(None)
    if (
        isinstance(join, Join)
        and hmac.compare_digest(join.secret.encode(), place.secret.encode())
        and 0 < join.rank < place.ranks
    ):
        return join
    log.warning(Entry("a stranger connected to the ranks' port"))
    connection.socket.close()
    return None


def _out_of_place(rank: int, message: FromRank) -> InferenceError:
    return InferenceError(f"rank {rank} answered with {type(message).__name__}")


def check_versions(join: Join, versions: Mapping[str, str]) -> None:
    """Raise InferenceError where a rank computes with other code: it would do other operations."""
    for name in ("mlx-worker", "mlx-lm", "mlx"):
        ours, theirs = versions.get(name), join.versions.get(name)
        if ours != theirs:
            raise InferenceError(f"rank {join.rank} has {name} {theirs}, rank 0 has {ours}")


def check_files(join: Join, files: dict[str, str]) -> None:
    """Raise InferenceError where a rank has files of another model: it would say something else."""
    if other := folder_hash.differing(files, join.files):
        names = ", ".join(other[:3])
        raise InferenceError(f"rank {join.rank} has other files than rank 0: {names}")


def join_group(place: RankPlace, addresses: list[str]) -> Any:
    """Return mlx's group of all ranks, whose addresses these are. Raises RuntimeError."""
    if place.transport == "jaccl":
        return join_jaccl(place.rank, addresses[0], place.devices, JOIN_SECONDS)
    return join_ring(place.rank, addresses)


def _end_without(rank: int) -> None:
    """End rank 0, which may wait in a collective for a rank that is gone."""
    end_process(ComputationFailed(f"the connection to rank {rank} was lost"))
