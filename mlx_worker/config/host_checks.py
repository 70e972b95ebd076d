"""Checks of `[[hosts]]`, and of the models whose parts these hosts compute.

[both]
"""

from __future__ import annotations

import ipaddress
from itertools import permutations
from typing import TYPE_CHECKING, Final

from mlx_worker.config.schema.hosts import HERE, HostConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.config.schema import Config, ModelConfig

    MakeError = Callable[[str, str], Exception]

OWN: Final = "a host without run is this machine, whose models"

LEAST: Final = 2
"""Hosts of a model that has several."""


def hosts_of(config: Config, model: ModelConfig) -> tuple[HostConfig, ...]:
    """Return the hosts of a model by rank; () for a model on this machine alone.

    The address of this machine is "" where the configuration has none. Raises KeyError for a name
    that no section has.
    """
    known = hosts_by_name(config)
    return tuple(known[name] for name in model.hosts)


def hosts_by_name(config: Config) -> dict[str, HostConfig]:
    """Return all hosts, this machine first."""
    return {HERE: HostConfig(HERE, "")} | {host.name: host for host in config.hosts}


def check_hosts(config: Config, make_error: MakeError) -> Iterator[Exception]:
    """Yield the error about every host, and about every model that cannot have its hosts."""
    taken: dict[str, str] = {}
    for i, host in enumerate(config.hosts):
        at = f"hosts[{i}]"
        if host.name in taken:
            yield make_error(
                f"{at}.name", f"{host.name!r} is already the name at {taken[host.name]}"
            )
        taken.setdefault(host.name, f"{at}.name")
        yield from _check_host(host, at, make_error)
    for i, model in enumerate(config.models):
        yield from _check_model(config, model, f"models[{i}]", make_error)


def _check_host(host: HostConfig, at: str, make_error: MakeError) -> Iterator[Exception]:
    try:
        address = ipaddress.IPv4Address(host.address)
    except ValueError:
        yield make_error(f"{at}.address", f"{host.address!r} is no IPv4 address")
    else:
        if address.is_unspecified or address.is_multicast:
            yield make_error(f"{at}.address", f"{host.address} is not the address of one host")
    if host.name == HERE and host.run:
        yield make_error(f"{at}.run", f"{HERE!r} is this machine, which needs no command")
    if host.is_here:
        if host.models_dir:
            yield make_error(f"{at}.models_dir", f"{OWN} are in server.models_dir")
        if host.memory_limit is not None:
            yield make_error(f"{at}.memory_limit", f"{OWN} have supervisor.memory_limit")
    for k, word in enumerate(host.run):
        if not word or "\0" in word:
            yield make_error(f"{at}.run[{k}]", f"{word!r} is no word of a command")


def _check_model(
    config: Config, model: ModelConfig, at: str, make_error: MakeError
) -> Iterator[Exception]:
    if not model.hosts:
        if model.transport != "ring":
            yield make_error(f"{at}.transport", f"{model.transport!r} needs {at}.hosts")
        return
    known = hosts_by_name(config)
    unknown = [name for name in model.hosts if name not in known]
    for name in unknown:
        yield make_error(
            f"{at}.hosts", f"{name!r} is no host; hosts are {', '.join(map(repr, known))}"
        )
    if model.ranks > 1:
        yield make_error(
            f"{at}.ranks",
            f"{model.ranks} processes of this machine, and hosts names {len(model.hosts)} hosts:"
            " leave one of the two keys out",
        )
    if len(model.hosts) < LEAST:
        yield make_error(
            f"{at}.hosts",
            f"{model.hosts[0]!r} alone: without this key a model runs on this machine",
        )
    elif len(set(model.hosts)) < len(model.hosts):
        yield make_error(
            f"{at}.hosts", "a host is named twice; ranks is for several processes of this machine"
        )
    elif not unknown:
        yield from _check_places(hosts_of(config, model), model, at, make_error)


def _check_places(
    hosts: tuple[HostConfig, ...], model: ModelConfig, at: str, make_error: MakeError
) -> Iterator[Exception]:
    """Yield the error about hosts that are all known."""
    if not hosts[0].is_here:
        yield make_error(
            f"{at}.hosts",
            f"the first host must be this machine ({HERE!r}, or a host without run), not"
            f" {hosts[0].name!r}",
        )
    if model.transport == "jaccl":
        for host, other in permutations(hosts, 2):
            if other.name not in host.rdma:
                yield make_error(
                    f"{at}.transport",
                    f"'jaccl' needs rdma of host {host.name!r} to name a device towards"
                    f" {other.name!r}",
                )
