"""Over which processes a model is split: their hosts, and what each is told of its host.

[front]
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.config.schema import HostConfig
from mlx_worker.wire.rank_place import HostSettings, RankPlace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.models.resolve import PlannedModel
    from mlx_worker.wire.messages import Load
    from mlx_worker.wire.rank_place import Split, Transport

LOOPBACK: Final = "127.0.0.1"

NAMELESS: Final = ""
"""The name of this host where several ranks share it."""

ANY_PORT: Final = 9


@dataclass(frozen=True, slots=True)
class RankPlan:
    """The hosts of a model by rank, and how the model is split over them.

    `path` is the model's folder as the configuration names it: each host looks it up.
    """

    hosts: tuple[HostConfig, ...]
    split: Split = "tensor"
    transport: Transport = "ring"
    path: str = ""

    @classmethod
    def of(cls, planned: PlannedModel) -> RankPlan:
        """Return the plan of a model with several ranks."""
        config = planned.config
        hosts = planned.hosts or (HostConfig(NAMELESS, LOOPBACK),) * config.ranks
        return cls(with_own_address(hosts), config.split, config.transport, config.path)

    @property
    def ranks(self) -> int:
        """Return the number of processes."""
        return len(self.hosts)

    @property
    def ranks_here(self) -> int:
        """Return how many processes share the memory that the model may have here."""
        return sum(host.name == NAMELESS for host in self.hosts) or 1

    def label(self, rank: int) -> str:
        """Return the name of a rank in reasons."""
        name = self.hosts[rank].name
        return f"rank {rank} on {name}" if name else f"rank {rank}"

    def load_of(self, load: Load, rank: int, secret: str, leader: str) -> Load:
        """Return what a rank is told to load. `leader` is where rank 0 waits; "" for rank 0."""
        host = self.hosts[rank]
        place = RankPlace(
            rank,
            self.ranks,
            self.split,
            host.address,
            secret,
            leader,
            self.transport,
            self._devices() if self.transport == "jaccl" else [],
            None if host.is_here else settings_of(host),
        )
        return msgspec.structs.replace(
            load,
            place=place,
            path=load.path if host.is_here else self.path,
            cache_bytes=load.cache_bytes // self.ranks_here,
            kv_bytes=load.kv_bytes // self.ranks_here,
        )

    def _devices(self) -> list[list[str | None]]:
        """Return the RDMA devices as mlx reads them: a list a rank, with one towards each rank."""
        return [[host.rdma.get(other.name) for other in self.hosts] for host in self.hosts]


def settings_of(host: HostConfig) -> HostSettings:
    """Return what a rank on another host applies itself."""
    return HostSettings(host.models_dir, float(host.memory_limit or 0.0))


def with_own_address(hosts: Sequence[HostConfig]) -> tuple[HostConfig, ...]:
    """Return the hosts, with an address for this machine where the configuration has none.

    That is the address from which this machine reaches the first other host.
    """
    others = [host.address for host in hosts if host.address]
    return tuple(
        host if host.address else msgspec.structs.replace(host, address=_address_towards(others[0]))
        for host in hosts
    )


def _address_towards(other: str) -> str:
    """Return this machine's address on the way to another. Raises OSError if there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, ANY_PORT))  # which sends nothing
        address: str = probe.getsockname()[0]
        return address
