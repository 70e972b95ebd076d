"""Say in words why a node could not be asked, or refused to answer.

The libraries' own messages name their objects and repeat the address; a user needs the cause and
what to do about it. [front]
"""

from __future__ import annotations

import errno
import os
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from mlx_worker.config.schema import KEY_VARIABLE
from mlx_worker.errors import (
    ConfigError,
    ModelBusy,
    NodeUnreachable,
    Unauthorized,
    UnknownModel,
    WorkerError,
    error_class,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NO_NODE: Final = "what answers there is not an mlx-worker node"

_READ_AGAIN: Final = "send the signal HUP to the node's process, or restart the node"

_EXPIRED: Final = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""

_BY_STATUS: Final[Mapping[int, type[WorkerError]]] = {
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.NOT_FOUND: UnknownModel,
    HTTPStatus.CONFLICT: ModelBusy,
    HTTPStatus.UNPROCESSABLE_ENTITY: ConfigError,
}

_CAUSES: Final[tuple[tuple[type[Exception], str], ...]] = (
    # The first that fits: some of aiohttp's classes are below several of these.
    (aiohttp.ClientConnectorDNSError, "the name of the host is not known"),
    (aiohttp.ClientConnectorSSLError, "no TLS is spoken there: a node without TLS is at http://"),
    (aiohttp.ServerTimeoutError, "there was no answer in time"),
    (TimeoutError, "there was no answer in time"),
    (
        aiohttp.ServerDisconnectedError,
        "the connection was closed without an answer: a node with TLS is at https://",
    ),
    (aiohttp.InvalidURL, "this is no URL"),
    (aiohttp.ClientResponseError, NO_NODE),
    (ValueError, NO_NODE),
)


def unreachable(
    url: str, error: Exception, advice: str, certificate: Path | None
) -> NodeUnreachable:
    """Return the error about a node that could not be asked, with what to do about it.

    `certificate` is the file that was to prove the node; None: the system's authorities were.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return NodeUnreachable(_about_certificate(url, error, certificate))
    said = f"no node answers at {url}: {cause_in_words(error)}"
    return NodeUnreachable(f"{said}; {advice}" if advice else said)


def cause_in_words(error: Exception) -> str:
    """Return why a connection failed, without an object of a library in the text."""
    for kind, words in _CAUSES:
        if isinstance(error, kind):
            return words
    if isinstance(error, OSError):
        return _system_error(error)
    return "the connection failed"


def _about_certificate(
    url: str, error: aiohttp.ClientConnectorCertificateError, certificate: Path | None
) -> str:
    """Return why a certificate proves no node: a node goes on with the file that it has read."""
    if certificate is None:
        return (
            f"the certificate at {url} is not trusted: name the node's configuration with --config"
        )
    failed = error.certificate_error
    if isinstance(failed, ssl.SSLCertVerificationError) and failed.verify_code == _EXPIRED:
        return (
            f"the certificate at {url} has expired: replace the files of server.tls_cert and"
            f" server.tls_key, then {_READ_AGAIN}"
        )
    return (
        f"the certificate at {url} is another than that of {certificate}: if that file was replaced"
        f" while the node runs, {_READ_AGAIN}; otherwise another program answers there"
    )


def _system_error(error: OSError) -> str:
    """Return the system's words; a failed try of several addresses has their common number."""
    number = error.errno
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
    if number == errno.ECONNREFUSED:
        return "the connection was refused: nothing listens there"
    if number == errno.ECONNRESET:
        return "the connection was reset: a node with TLS is at https://"
    return os.strerror(number).lower() if number else "the connection failed"


def refusal(status: int, body: Any, url: str, key_source: str | None) -> WorkerError | None:
    """Return the error that a node's answer stands for; None if the answer is no node's.

    `key_source` says where the key comes from that was sent; None: no key was sent.
    """
    try:
        error, said = body["error"], str(body["error"]["message"])
        code = str(error.get("code"))
    except (AttributeError, KeyError, TypeError):
        return None
    kind = error_class(code)
    if kind is WorkerError:
        kind = _BY_STATUS.get(status, WorkerError)
    return kind(_about_key(url, said, key_source) if kind is Unauthorized else said)


def _about_key(url: str, said: str, key_source: str | None) -> str:
    if "has no API keys" in said:  # a node that only asks where a request comes from
        return f"{url}: {said}"
    if key_source is None:
        return (
            f"the node at {url} asks for an API key, and none was sent: set {KEY_VARIABLE}, or name"
            " the node's configuration with --config"
        )
    other = (
        "unset the variable and name the node's configuration with --config"
        if key_source == KEY_VARIABLE
        else "name another configuration with --config"
    )
    return (
        f"the node at {url} does not know the API key of {key_source}: set {KEY_VARIABLE} to one of"
        f" the node's keys, or {other}"
    )
