"""How a node's URL may be written, and what is said where no node answers."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from mlx_worker.cli.client import DEFAULT_URL, read_url
from tests.commands import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://10.0.0.5:8081", "http://10.0.0.5:8081"),
        ("http://10.0.0.5:8081/", "http://10.0.0.5:8081"),
        ("https://node.example/mlx/v1/", "https://node.example/mlx"),
        ("10.0.0.5:9000", "http://10.0.0.5:9000"),
        ("studio", "http://studio:8081"),
        ("localhost:8081/v1", "http://localhost:8081"),
        ("[::1]:8081", "http://[::1]:8081"),
        ("http://studio", "http://studio"),
    ],
)
def test_a_url_is_completed(text: str, url: str) -> None:
    assert read_url(text) == url


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ftp://10.0.0.5", "a node speaks http or https"),
        ("http://", "is no URL such as http://127.0.0.1:8081"),
        ("two words", "is no URL such as"),
        ("host:port", "is no URL: "),
        ("http://a:1?model=m", "a base URL has no ?"),
    ],
)
def test_what_is_no_url_is_wrong_usage_with_the_reason(text: str, problem: str) -> None:
    ran = run("status", "--url", text)
    assert ran.code == 2
    assert problem in ran.said


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Yield the URL of a server that closes every connection without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_connections() -> None:
            try:
                while True:
                    server.accept()[0].close()
            except OSError:  # the server was closed
                return

        threading.Thread(target=close_connections, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def refused_place() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_connection_refused_is_in_words_without_objects() -> None:
    place = refused_place()
    for scheme in ("http", "https"):
        ran = run("status", "--url", f"{scheme}://{place}")
        assert ran.code == 69
        assert ran.said == (
            f"no node answers at {scheme}://{place}: the connection was refused:"
            " nothing listens there"
        )


def test_closed_connection_hints_at_tls(silent_url: str) -> None:
    ran = run("status", "--url", silent_url)
    assert ran.code == 69
    assert "https://" in ran.said
    assert "object at" not in ran.said


def test_unknown_host_is_in_words() -> None:
    ran = run("models", "--url", "http://no-such-host.invalid:1")
    assert ran.code == 69
    assert ran.said.endswith("the name of the host is not known")


def test_node_without_configuration_is_asked_at_the_default_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    # Nothing listens at the default address, or some other node does: a test owns neither.
    try:
        socket.create_connection(("127.0.0.1", 8081), 1).close()
    except OSError:
        pass
    else:
        pytest.skip("the default port is in use")
    for words in (["status"], ["top", "--json"], ["logs"], ["load", "m"], ["ps"], ["chat"]):
        ran = run(*words)
        assert ran.code == 69, words
        assert ran.said.startswith(f"no node answers at {DEFAULT_URL}: ")
        assert "neither ./mlx-worker.toml nor " in ran.said
        assert ran.said.endswith("or the node with --url")


def test_unreachable_node_of_a_configuration_has_advice(tmp_path: Path) -> None:
    port = refused_place().rpartition(":")[2]
    file = tmp_path / "node.toml"
    file.write_text(f'[server]\nport = {port}\n[[models]]\nid = "m"\npath = "m"\n')
    ran = run("status", "--config", str(file))
    assert ran.code == 69
    assert ran.said.endswith("`mlx-worker serve` starts the node")
