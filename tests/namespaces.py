"""Hosts made of network namespaces: each with an address on a network between them and this one.

What is sent to a host whose link is down is lost without a word, as with a cable that was pulled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
"""Where a host finds `mlx-worker`: that of these tests comes first."""


def ip(*words: str) -> str:
    """Run iproute2's command; return what it prints."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class HostNamespace:
    """One host. `link` is this end of its cable."""

    def __init__(self, name: str, link: str, address: str) -> None:
        self.name = name
        self.address = address
        self._link = link

    @property
    def run(self) -> list[str]:
        """The command that runs another one on the host."""
        return ["ip", "netns", "exec", self.name, "env", f"PATH={COMMANDS}"]

    def table(self, name: str = "studio2") -> str:
        """The section of the configuration for the host."""
        return f'[[hosts]]\nname = "{name}"\naddress = "{self.address}"\nrun = {self.run}\n'

    def pull_cable(self) -> None:
        ip("link", "set", self._link, "down")

    def plug_cable(self) -> None:
        ip("link", "set", self._link, "up")

    def processes(self) -> list[psutil.Process]:
        """What runs on the host."""
        pids = ip("netns", "pids", self.name).split()
        return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]


@contextlib.contextmanager
def host_namespaces(count: int) -> Iterator[list[HostNamespace]]:
    """Make hosts on one network, with this machine as its first address; skip where that fails."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces are made by `ip` on Linux")
    with contextlib.ExitStack() as stack:
        number = os.getpid() % 250
        bridge = f"mlxw{os.getpid() % 100_000}"
        try:
            ip("link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network can be made here: {error.stderr.strip()}")
        stack.callback(ip, "link", "del", bridge)
        ip("address", "add", f"10.213.{number}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        yield [
            stack.enter_context(_host(f"{bridge}-{i}", bridge, f"10.213.{number}.{i}"))
            for i in range(2, count + 2)
        ]


@contextlib.contextmanager
def _host(name: str, bridge: str, address: str) -> Iterator[HostNamespace]:
    link = f"{bridge}v{address.rpartition('.')[2]}"
    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", link, "master", bridge, "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")
        host = HostNamespace(name, link, address)
        yield host
        for process in host.processes():
            process.kill()
    finally:
        ip("netns", "del", name)
