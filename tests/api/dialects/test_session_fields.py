"""Which session the fields of a body name, and what stands for a name that no session can have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.session_fields import (
    MAX_SESSION_BYTES,
    Session,
    body_session,
    conversation_of,
    problem_of_session,
)

OF_CLAUDE_CODE = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "54c1eb09"})


def session(**fields: Any) -> Session | None:
    return body_session(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt_cache_key": "k"}, "k"),
        ({"prompt_cache_key": " k "}, "k"),
        ({"prompt_cache_key": "k", "metadata": {"user_id": OF_CLAUDE_CODE}, "user": "u"}, "k"),
        ({"metadata": {"user_id": OF_CLAUDE_CODE}, "user": "u"}, "54c1eb09"),
        ({"metadata": {"user_id": "user_a_account__session_57a121ec"}}, "57a121ec"),
        ({"prompt_cache_key": "", "metadata": {"user_id": OF_CLAUDE_CODE}}, "54c1eb09"),
        ({"prompt_cache_key": 7, "metadata": {"user_id": OF_CLAUDE_CODE}}, "54c1eb09"),
    ],
)
def test_body_session_first_name_of_a_conversation_counts(fields: Any, name: str) -> None:
    assert session(**fields) == Session(name)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"user": ""},
        {"user": None},
        {"user": 7},
        {"user": "  "},
        {"metadata": ["user_id"]},
        {"metadata": {"user_id": {"session_id": "s"}}},
    ],
)
def test_body_session_without_a_name_is_none(fields: Any) -> None:
    assert session(**fields) is None


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"user": "ada"}, {"user": "ada", "prompt_cache_key": None}),
        ({"metadata": {"user_id": "ada"}, "user": "other"}, {"user": "ada"}),
        ({"metadata": {"user_id": "{no json"}}, {"user": "{no json"}),
        ({"metadata": {"user_id": '{"account": 1}'}}, {"user": '{"account": 1}'}),
    ],
)
def test_body_session_of_a_person_is_a_hash_and_no_conversation(fields: Any, same: Any) -> None:
    found = session(**fields)
    assert found == session(**same)
    assert found is not None
    assert not found.is_conversation
    assert found.id.startswith("user-")
    assert "ada" not in found.id
    assert conversation_of(found, "key") == ""


@pytest.mark.parametrize("name", ["x" * (MAX_SESSION_BYTES + 1), "a\r\nX-Other: b", "a\tb", "a\0b"])
def test_body_session_name_that_does_not_fit_is_hashed(name: str) -> None:
    found, other = session(prompt_cache_key=name), session(prompt_cache_key=f"{name}.")
    assert found is not None
    assert found.is_conversation
    assert not problem_of_session(found.id)
    assert found == session(prompt_cache_key=name)
    assert found != other


@pytest.mark.parametrize("field", ["user", "prompt_cache_key", "metadata"])
def test_body_session_text_that_is_no_unicode_names_nothing(field: str) -> None:
    assert body_session(b'{"%s": "\\ud800"}' % field.encode()) is None


def test_conversation_of_two_keys_with_one_session_differs() -> None:
    named = Session("s")
    assert conversation_of(named, "a") == conversation_of(Session("s"), "a") != ""
    assert conversation_of(named, "a") != conversation_of(named, "b")
    assert conversation_of(Session("b s"), "a") != conversation_of(named, "a b")
    assert conversation_of(None, "a") == ""
