"""A node at `localhost` serves both of its addresses, by one rule about keys."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console

from mlx_worker.cli.reports.status import overview
from tests.server.asking import ask
from tests.server.conftest import BEARER, Serving
from tests.server.test_listening import needs_ipv6

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def both(url: str) -> list[str]:
    port = urlsplit(url).port
    return [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]


@needs_ipv6
async def test_both_addresses_answer_without_keys_and_are_named(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    urls = both(await serving(host="localhost"))
    for url in urls:
        answer = await ask(url, "/health")
        assert answer.status == 200
        assert answer.json["addresses"] == urls
        assert (await ask(url, "/", headers={"Sec-Fetch-Site": "none"})).status == 200
    assert f"listening on {', '.join(urls)}" in caplog.messages
    console = Console(width=200)
    with console.capture() as shown:
        console.print(*overview(urls[0], answer.json))
    assert shown.get().startswith(f"{urls[0]}, {urls[1]}  healthy")


async def test_a_node_at_every_address_names_one_that_a_client_can_use(serving: Serving) -> None:
    url = await serving(host="0.0.0.0", insecure=True)
    port = urlsplit(url).port
    local = f"http://127.0.0.1:{port}"
    health = (await ask(local, "/health")).json
    assert health["addresses"][0] == local
    assert not any("0.0.0.0" in each for each in health["addresses"])
    (headline, *_) = overview(local, health | {"addresses": [local, "http://a", "b", "c", "d"]})
    assert headline.plain.startswith(f"{local}, http://a, b and 2 more  ")


@needs_ipv6
async def test_both_addresses_ask_for_keys_where_there_are_any(
    serving: Serving, keys: Path
) -> None:
    for url in both(await serving(host="localhost", api_keys_file=keys)):
        assert (await ask(url, "/health")).status == 401
        assert (await ask(url, "/health", headers=BEARER)).status == 200
