"""IP addresses and networks of the configuration, and whether a peer is in one of them.

An IPv4 address may come written as IPv6 (`::ffff:10.0.0.5`), as on a socket that serves both: both
spellings are one address here. [both]
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED_PREFIX = 96
"""Bits of `::ffff:0:0/96`, the IPv6 network that holds all of IPv4."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Networks, of which a single address is the smallest."""

    members: tuple[Network, ...] = ()

    @classmethod
    def read(cls, texts: Iterable[str]) -> Self:
        """Return the networks of these texts. Raises ValueError as `read_network` does."""
        return cls(tuple(read_network(text) for text in texts))

    def __bool__(self) -> bool:
        """Return True if there is any network."""
        return bool(self.members)

    def covers(self, peer: str | None) -> bool:
        """Return True if the text is an address in one of the networks."""
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self.members)


def read_network(text: str) -> Network:
    """Return the network that a text names. Raises ValueError, which says what is wrong with it."""
    try:
        return _as_ipv4(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(_problem(text)) from error


def _as_ipv4(network: Network) -> Network:
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_PREFIX:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX))
    return network


def _problem(text: str) -> str:
    try:
        around = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is neither an IP address nor a network such as '10.0.0.0/24'"
    address = text.partition("/")[0]
    return f"{text!r} is an address inside a network: write '{around}', or '{address}' alone"


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the host."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
