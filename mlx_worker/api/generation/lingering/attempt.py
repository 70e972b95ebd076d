"""Identify a request: whether its response outlives its client, and which requests repeat it.

Two requests are the same if API key, dialect and the bytes of the body are the same, and both have
the same `Idempotency-Key` or the same session. The body is compared by its hash.

[front]
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.api.middleware.auth import key_name
from mlx_worker.api.middleware.request_ids import IDEMPOTENCY_KEY, session_given
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from aiohttp import web

    from mlx_worker.api.dialects.base import DialectName
    from mlx_worker.config.schema import ServerConfig

RETRY_COUNT: Final = "X-Stainless-Retry-Count"
"""The number of attempts before this one: OpenAI's and Anthropic's libraries always send it."""

SMALL_BODY: Final = 128 * 1024
"""Bytes of a body that is hashed, and looked into, in less than a millisecond."""

SESSION_KEYS: Final = (b'"prompt_cache_key"', b'"user_id"', b'"user":', b'"user" :')
"""Keys that name a session in a body as they are written: in a text, quotes have a backslash."""

_KEY: Final = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")


IN_BODY: Final = "in the body"
"""In place of the name of a session that the body has: equal bodies name the same one."""


class _UserMetadata(msgspec.Struct, frozen=True):
    """The user whom a client names in `metadata`."""

    user_id: str | None = None


class _SessionFields(msgspec.Struct, frozen=True):
    """The fields of a body that name a session."""

    prompt_cache_key: str | None = None
    user: str | None = None
    metadata: _UserMetadata | None = None


@dataclass(frozen=True, slots=True)
class AttemptContent:
    """What the attempts of one request have in common, where no `Idempotency-Key` names them."""

    key: str
    dialect: DialectName
    digest: bytes
    session: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a request. `linger` is in seconds; `idempotency_key` is "" if not given.

    `is_retry`: the client's library says that an earlier attempt failed. `comes_from_library`: the
    library would say so.
    """

    content: AttemptContent
    idempotency_key: str
    is_retry: bool
    comes_from_library: bool
    linger: float

    @property
    def joins_any(self) -> bool:
        """True if this attempt joins the same request also while another client reads it."""
        return bool(self.idempotency_key) or self.is_retry

    @property
    def joins_abandoned(self) -> bool:
        """True if this attempt joins the same request once no client reads it."""
        lingers_plain = bool(self.linger) and not self.comes_from_library
        return self.joins_any or bool(self.content.session) or lingers_plain


async def attempt_of(
    request: web.Request, dialect: DialectName, body: bytes, server: ServerConfig
) -> Attempt | None:
    """Return what identifies a request; None if its response ends with its client.

    Raises InvalidRequest for an `Idempotency-Key` that this node cannot use.
    """
    idempotency_key = _idempotency_key(request)
    retry_count = request.headers.get(RETRY_COUNT)
    session = session_given(request) or ""
    if not session and names_session(body):
        session = IN_BODY
    may_be_background = dialect == "responses" and b'"background"' in body
    is_named = bool(idempotency_key or session or retry_count is not None)
    linger = server.linger if is_named else server.linger_plain
    if not (linger or may_be_background):
        return None
    digest = await _digest_of(body)
    return Attempt(
        AttemptContent(key_name(request), dialect, digest, session),
        idempotency_key,
        is_retry=_is_retry(retry_count),
        comes_from_library=retry_count is not None,
        linger=linger,
    )


def names_session(body: bytes) -> bool:
    """Return True if a body names a session; for a large body: if one of its objects may."""
    if not any(key in body for key in SESSION_KEYS):
        return False
    if len(body) > SMALL_BODY:
        return True
    try:
        named = msgspec.json.decode(body, type=_SessionFields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False  # the body is refused, or has these fields for something else
    return bool(named.prompt_cache_key or named.user or (named.metadata and named.metadata.user_id))


def _idempotency_key(request: web.Request) -> str:
    value = request.headers.get(IDEMPOTENCY_KEY, "")
    if value and not _KEY.fullmatch(value):
        raise InvalidRequest(
            f"{IDEMPOTENCY_KEY}: must be 1 to 255 printable ASCII characters", param=IDEMPOTENCY_KEY
        )
    return value


def _is_retry(count: str | None) -> bool:
    return count is not None and count.isascii() and count.isdigit() and bool(count.strip("0"))


async def _digest_of(body: bytes) -> bytes:
    if len(body) <= SMALL_BODY:
        return hashlib.sha256(body).digest()
    hasher = await asyncio.to_thread(hashlib.sha256, body)
    return hasher.digest()
