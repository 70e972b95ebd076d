"""A node that listens at every address of its machine names those that clients can use."""

from __future__ import annotations

import ipaddress

import pytest

from mlx_worker.system.own_addresses import machine_addresses, usable_urls

FOUND = [
    *("127.0.0.1", "::1", "fd00::7", "192.168.1.5", "fe80::1%en0", "fe80::2", "169.254.1.1"),
    "10.0.0.9",
]


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("http://192.168.1.5:8081", ["http://192.168.1.5:8081"]),
        ("http://[::1]:8081", ["http://[::1]:8081"]),
        (
            "https://0.0.0.0:9",
            ["https://127.0.0.1:9", "https://192.168.1.5:9", "https://10.0.0.9:9"],
        ),
        (
            "http://[::]:9",
            ["http://127.0.0.1:9", "http://192.168.1.5:9", "http://10.0.0.9:9"],
        ),
    ],
)
def test_usable_urls_of_any_address_are_those_of_the_machine(url: str, usable: list[str]) -> None:
    named = usable_urls([url], lambda: FOUND)
    assert [each for each in named if "[fd00::7]" not in each] == usable
    assert ("http://[fd00::7]:9" in named) == (url == "http://[::]:9")


def test_usable_urls_of_this_machine_are_no_unspecified_addresses() -> None:
    assert all(ipaddress.ip_address(text.partition("%")[0]) for text in machine_addresses())
    first, *others = usable_urls(["http://0.0.0.0:80"])
    assert first == "http://127.0.0.1:80"
    assert "http://0.0.0.0:80" not in others
