"""Read the session of a request from fields of its body that name a conversation or a person.

These fields are other servers' own, so that no value of them is refused: a value that cannot be the
id of a session is replaced by its hash. A person's name is always replaced: ids of sessions are in
the log.

[front]
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

MAX_SESSION_BYTES: Final = 1024
"""Bytes of a client's name for its session: the node keeps it while the session waits."""

_HASH_DIGITS: Final = 32
"""Hex digits of a hash that stands for a name."""

_BEFORE_SESSION: Final = "_session_"
"""What is before the session in the `metadata.user_id` of earlier versions of Claude Code."""

_ABSENT: Final = msgspec.Raw(b"null")


class Session(msgspec.Struct, frozen=True):
    """The session of a request, as its client names it.

    `is_conversation` False: `id` stands for a person, whose requests may belong to any number of
    conversations. They take turns as one session, and nothing else is shared among them.
    """

    id: str
    is_conversation: bool = True


class SessionFields(msgspec.Struct, frozen=True):
    """The fields of a body that name a session, in all dialects; values of any type are taken."""

    prompt_cache_key: msgspec.Raw = _ABSENT
    metadata: msgspec.Raw = _ABSENT
    user: msgspec.Raw = _ABSENT


class _Metadata(msgspec.Struct, frozen=True):
    """The part of `metadata` that names a person."""

    user_id: msgspec.Raw = _ABSENT


class _ClaudeCodeUser(msgspec.Struct, frozen=True):
    """The JSON text that is the `metadata.user_id` of Claude Code."""

    session_id: str


def body_session(data: bytes) -> Session | None:
    """Return the session that a body names; None if it names none.

    `data` is a body that has been decoded before. The first field that names a session counts:
    `prompt_cache_key`, `metadata.user_id`, `user`.
    """
    fields = _decoded(data, SessionFields) or SessionFields()
    if key := _text(fields.prompt_cache_key):
        return conversation(key)
    if user_id := _user_id(fields.metadata):
        session = _session_of_claude_code(user_id)
        return conversation(session) if session else _person(user_id)
    user = _text(fields.user)
    return _person(user) if user else None


def conversation(name: str) -> Session | None:
    """Return the session of another server's name for a conversation; None for an empty name."""
    name = name.strip()
    return Session(_hash(name) if problem_of_session(name) else name) if name else None


def problem_of_session(name: str) -> str:
    """Return what is wrong with a name; "" if nothing. Spaces and other alphabets are allowed."""
    if not name.isprintable():
        return "has a character that cannot be printed, or bytes that are not UTF-8"
    size = len(name.encode())
    return f"has {size} bytes; at most {MAX_SESSION_BYTES}" if size > MAX_SESSION_BYTES else ""


def conversation_of(session: Session | None, key: str) -> str:
    """Return a name for the conversation of one API key's session; "" where there is none.

    Equal names of sessions of two keys are two conversations.
    """
    if session is None or not session.is_conversation:
        return ""
    return _hash(f"{len(key)} {key} {session.id}")


def _person(name: str) -> Session:
    return Session(f"user-{_hash(name)}", is_conversation=False)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]


def _user_id(metadata: msgspec.Raw) -> str:
    found = _decoded(metadata, _Metadata)
    return "" if found is None else _text(found.user_id)


def _session_of_claude_code(user_id: str) -> str:
    """Return the session in a `metadata.user_id` of Claude Code; "" for that of other clients."""
    if user_id.startswith("{"):
        found = _decoded(user_id.encode("utf-8", "surrogatepass"), _ClaudeCodeUser)
        return "" if found is None else found.session_id.strip()
    _, _, session = user_id.rpartition(_BEFORE_SESSION)
    return session.strip() if _BEFORE_SESSION in user_id else ""


def _text(raw: msgspec.Raw) -> str:
    text = _decoded(raw, str)
    return "" if text is None else text.strip()


def _decoded(raw: Any, type_: Any) -> Any:
    """Return a value of this type; None for a value of another type."""
    if raw is _ABSENT:
        return None
    try:
        return msgspec.json.decode(raw, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
