"""The URLs at which a node can be reached that listens at every address of its machine.

`0.0.0.0` and `::` are no addresses to connect to. A machine gains and loses addresses while a node
runs, so they are read for each report, in about a fifth of a millisecond. [front]
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_V6 = 6


def machine_addresses() -> list[str]:
    """Return the IP addresses of this machine's interfaces, as the system writes them."""
    return [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]


def usable_urls(
    urls: Iterable[str], addresses: Callable[[], Iterable[str]] = machine_addresses
) -> list[str]:
    """Return the URLs, each one of an unspecified address as those that clients can use.

    The first of them is for programs on this machine.
    """
    return [usable for url in urls for usable in _usable(url, addresses)]


def _usable(url: str, addresses: Callable[[], Iterable[str]]) -> Iterator[str]:
    parts = urlsplit(url)
    listening = ipaddress.ip_address(parts.hostname or "")
    if not listening.is_unspecified:
        yield url
        return
    has_v4, has_v6 = _families(listening)
    found = [ipaddress.ip_address(text) for text in addresses() if "%" not in text]
    others = [address for address in found if not (address.is_loopback or address.is_link_local)]
    loopback: Address = ipaddress.ip_address("127.0.0.1" if has_v4 else "::1")
    for address in (loopback, *sorted(others, key=lambda address: address.version)):
        if has_v6 if address.version == _V6 else has_v4:
            yield f"{parts.scheme}://{_in_url(address)}:{parts.port}"


def _families(listening: Address) -> tuple[bool, bool]:
    """Return whether IPv4 and IPv6 reach a socket at this unspecified address."""
    if listening.version == _V6:
        return socket.has_dualstack_ipv6(), True
    return True, False


def _in_url(address: Address) -> str:
    return f"[{address}]" if address.version == _V6 else str(address)
