"""The session of a request, by headers and fields of all clients, in the documented order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.middleware.session_headers import SESSION_HEADERS
from tests.dialects import ALL, CHAT, Dialect

if TYPE_CHECKING:
    from tests.front.asking import Front, Serve

OF_CLAUDE_CODE = {"user_id": json.dumps({"device_id": "d", "session_id": "of-metadata"})}
FIELDS: dict[str, Any] = {
    "prompt_cache_key": "of-key",
    "metadata": OF_CLAUDE_CODE,
    "user": "of-user",
}
DIALECTS_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dialects.md"


async def ask(
    front: Front, dialect: Dialect, headers: dict[str, str], fields: dict[str, Any]
) -> str:
    data = json.dumps(dialect.body("hello") | fields).encode()
    response = await front.client.post(dialect.path, data=data, headers=headers)
    assert response.status == 200, await response.read()
    await response.read()
    return str(response.headers["X-Session-Id"])


@pytest.mark.parametrize("dialect", ALL, ids=repr)
async def test_session_first_source_in_the_order_counts(serve: Serve, dialect: Dialect) -> None:
    front = await serve()
    sources = ["X-Session-Id", *SESSION_HEADERS]
    fields = dict(FIELDS)
    for first, name in enumerate(sources):
        given = {header: f"of-{header}" for header in sources[first:]}
        assert await ask(front, dialect, given, fields) == f"of-{name}"
    assert await ask(front, dialect, {}, fields) == "of-key"
    fields["prompt_cache_key"] = ""
    assert await ask(front, dialect, {}, fields) == "of-metadata"
    fields["metadata"] = {"user_id": ""}
    of_user = await ask(front, dialect, {}, fields)
    assert re.fullmatch("user-[0-9a-f]{32}", of_user)
    fields["user"] = ""
    made = await ask(front, dialect, {}, fields)
    assert re.fullmatch("[0-9a-f]{32}", made)


@pytest.mark.parametrize("name", SESSION_HEADERS)
async def test_session_foreign_name_that_does_not_fit_is_hashed(serve: Serve, name: str) -> None:
    front = await serve()
    long = await ask(front, CHAT, {name: "x" * 2000}, {})
    assert re.fullmatch("[0-9a-f]{32}", long)
    assert await ask(front, CHAT, {name: "x" * 2000}, {}) == long
    assert await ask(front, CHAT, {name: "x" * 2001}, {}) != long


@pytest.mark.process
async def test_session_of_a_large_body_is_read_by_the_parser(serve: Serve) -> None:
    front = await serve()
    large = {"prompt_cache_key": "of-key", "safety_identifier": "x" * 200_000}
    assert await ask(front, CHAT, {}, large) == "of-key"


async def test_session_of_a_person_is_in_the_table_without_the_name(serve: Serve) -> None:
    front = await serve()
    await ask(front, CHAT, {}, {"user": "ada@example.com"})
    answer = await front.ask("/admin/requests")
    assert answer.json["recent"][0]["session"].startswith("user-")
    assert b"ada" not in answer.body


def test_session_order_is_that_of_the_documents() -> None:
    table = DIALECTS_PAGE.read_text().split("\n## Sessions\n")[1].split("\n## ")[0]
    told = re.findall(
        r"`([\w.-]+)`", " ".join(re.findall(r"^\| \d+ \| (.+?) \|", table, re.MULTILINE))
    )
    assert told == [
        "X-Session-Id",
        *SESSION_HEADERS,
        "prompt_cache_key",
        "metadata.user_id",
        "user",
    ]
