"""TLS: a certificate of one's own, renewed while the node runs, and files that cannot be used."""

from __future__ import annotations

import contextlib
import http.client
import signal
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from mlx_worker.cli.client.failures import unreachable
from mlx_worker.config.load import parse_config
from mlx_worker.config.schema import KEY_VARIABLE as OWN_KEY_VARIABLE
from mlx_worker.config.schema import ServerConfig
from mlx_worker.errors import ConfigError
from mlx_worker.security.tls import client_context, server_context
from tests.commands import run as run_in_process
from tests.processes import DEADLINE, RunningNode, eventually, running_node
from tests.server.conftest import BEARER, KEY

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_pair(folder: Path) -> ssl.SSLContext:
    """A new certificate and its key; returns what a client trusts it by."""
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1", "localhost")
    pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    pair.private_key_pem.write_to_path(folder / "key.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return trust


def config_of(folder: Path) -> ServerConfig:
    return ServerConfig(tls_cert=folder / "cert.pem", tls_key=folder / "key.pem")


@pytest.fixture
def secured(tiny: Path, tmp_path: Path, keys: Path) -> Iterator[tuple[RunningNode, ssl.SSLContext]]:
    """A node of this certificate, whose model is loaded only where a test asks the model."""
    trust = write_pair(tmp_path)
    server = 'tls_cert = "cert.pem"\ntls_key = "key.pem"\napi_keys_file = "keys"'
    with running_node(tmp_path, {"tiny": tiny}, server=server, extra="preload = false") as node:
        yield node, trust


@pytest.mark.process
def test_tls_official_client_connects_and_sees_a_renewed_certificate(
    secured: tuple[RunningNode, ssl.SSLContext], tmp_path: Path
) -> None:
    node, trust = secured
    assert node.url.startswith("https://")
    assert said(node.url, trust)
    at = urlsplit(node.url)
    kept = http.client.HTTPSConnection(str(at.hostname), at.port, context=trust, timeout=DEADLINE)
    assert status(kept) == 200
    first = kept.sock

    renewed = write_pair(tmp_path)
    assert said(node.url, trust), "nothing changes before it is told"
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: any('"event":"reload"' in line for line in node.log))
    assert said(node.url, renewed)
    with pytest.raises(openai.APIConnectionError):
        said(node.url, trust)
    assert status(kept) == 200
    assert kept.sock is first, "what was open stays open"
    kept.close()

    (tmp_path / "key.pem").write_text("no key")
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: any("nothing was reloaded" in line for line in node.log))
    assert said(node.url, renewed)


def status(connection: http.client.HTTPConnection, headers: dict[str, str] = BEARER) -> int:
    connection.request("GET", "/health", headers=headers)
    response = connection.getresponse()
    response.read()
    return response.status


def said(url: str, trust: ssl.SSLContext) -> str | None:
    with (
        openai.DefaultHttpxClient(verify=trust) as http_client,
        openai.OpenAI(
            base_url=f"{url}/v1", api_key=KEY, http_client=http_client, max_retries=0
        ) as client,
    ):
        messages: Any = [{"role": "user", "content": "hello"}]
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
        content: str | None = answer.choices[0].message.content
        return content


# --- commands, and keys that change -----------------------------------------------------------


@pytest.mark.process
def test_commands_find_the_key_and_the_certificate_in_the_configuration(
    secured: tuple[RunningNode, ssl.SSLContext],
    tmp_path: Path,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node, trust = secured
    file = tmp_path / "mlx-worker.toml"
    file.write_text(file.read_text().replace("port = 0", f"port = {urlsplit(node.url).port}"))

    assert run_in_process("reload", "-c", str(file)).code == 0
    monkeypatch.setenv(OWN_KEY_VARIABLE, "sk-of-nobody-0123456789")
    refused = run_in_process("restart", "tiny", "-c", str(file))
    assert refused.code == 77
    assert "API key" in refused.said
    assert "sk-of" not in refused.said

    keys.write_text("carol:sk-of-carol-0123456789\n")
    keys.chmod(0o644)
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: any("nothing was reloaded" in line for line in node.log))
    assert asked(node.url, trust, KEY) == 200
    keys.chmod(0o600)
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: asked(node.url, trust, KEY) == 401)
    assert asked(node.url, trust, "sk-of-carol-0123456789") == 200
    assert not any("sk-of" in line for line in node.log)


@pytest.mark.process
def test_a_command_says_that_the_certificate_was_replaced(
    secured: tuple[RunningNode, ssl.SSLContext], tmp_path: Path
) -> None:
    node, _ = secured
    file = tmp_path / "mlx-worker.toml"
    file.write_text(file.read_text().replace("port = 0", f"port = {urlsplit(node.url).port}"))
    write_pair(tmp_path)
    for words in (("reload",), ("status",)):
        ran = run_in_process(*words, "-c", str(file))
        assert ran.code == 69
        assert f"is another than that of {tmp_path / 'cert.pem'}" in ran.said
        assert "send the signal HUP to the node's process" in ran.said
        assert "no node answers" not in ran.said
    stranger = run_in_process("status", "--url", node.url)
    assert "is not trusted: name the node's configuration with --config" in stranger.said
    node.process.send_signal(signal.SIGHUP)
    eventually(lambda: run_in_process("reload", "-c", str(file)).code == 0)


def test_a_command_says_that_a_certificate_has_expired() -> None:
    failed = ssl.SSLCertVerificationError(1, "certificate verify failed")
    failed.verify_code = 10
    error = aiohttp.ClientConnectorCertificateError(cast("Any", None), failed)
    said = str(unreachable("https://node", error, "advice", Path("cert.pem")))
    assert said.startswith("the certificate at https://node has expired: replace the files of")


def asked(url: str, trust: ssl.SSLContext, key: str) -> int:
    at = urlsplit(url)
    client = http.client.HTTPSConnection(str(at.hostname), at.port, context=trust, timeout=DEADLINE)
    with contextlib.closing(client):
        return status(client, {"x-api-key": key})


# --- files that cannot be used -----------------------------------------------------------------


def test_tls_context_of_certificate_and_key_refuses_old_protocols(
    tmp_path: Path,
) -> None:
    write_pair(tmp_path)
    context = server_context(config_of(tmp_path))
    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    for certificate in (None, tmp_path / "cert.pem"):
        assert client_context(certificate).minimum_version >= ssl.TLSVersion.TLSv1_2
    assert server_context(ServerConfig()) is None


@pytest.mark.parametrize("wrong", ["another's key", "no key", "no file", "a password"])
def test_files_that_are_no_pair_are_named(tmp_path: Path, wrong: str) -> None:
    write_pair(tmp_path)
    key = tmp_path / "key.pem"
    match wrong:
        case "another's key":
            trustme.CA().issue_cert("x").private_key_pem.write_to_path(key)
        case "no key":
            key.write_text("no key")
        case "no file":
            key.unlink()
        case "a password":
            plain = serialization.load_pem_private_key(key.read_bytes(), None)
            key.write_bytes(
                plain.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"secret"),
                )
            )
    with pytest.raises(ConfigError) as caught:
        server_context(config_of(tmp_path))
    assert str(key) in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_one_of_the_two_alone_is_refused(given: str, missing: str) -> None:
    text = f'[server]\n{given} = "x.pem"\n[[models]]\nid = "a"\npath = "p"\n'
    with pytest.raises(ConfigError, match=rf"node.toml:2: server.{given}: needs server.{missing}"):
        parse_config(text, source="node.toml", folder=Path())
