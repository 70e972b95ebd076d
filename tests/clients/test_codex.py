"""Codex, headless, with its tools that are no plain functions and an MCP server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from PIL import Image

from tests.clients.table import KINDS
from tests.clients.trials.trial import PERSON, SAYS_PERSON, SENTENCE, TEXT, calls

if TYPE_CHECKING:
    from tests.clients.conftest import Seats
    from tests.clients.seat import Ran, Seat
    from tests.clients.table import Table

pytestmark = pytest.mark.clients


NAME: Final = "codex"
SERVER: Final = Path(__file__).with_name("mcp_server.py")
SHAPE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def ask(seat: Seat, prompt: str, *options: str, settings: str = "") -> Ran:
    """Ask one question headless; the events of the turn are JSON, one a line."""
    seat.place(".codex/config.toml", seat.block + settings)
    ran = seat.run("codex", "exec", "--skip-git-repo-check", "--json", *options, prompt)
    assert ran.code == 0, ran.whole
    return ran


def last_words(ran: Ran) -> str:
    """Return the text of the model's last message."""
    said = [
        event["item"]["text"]
        for event in ran.events
        if event["type"] == "item.completed" and event["item"]["type"] == "agent_message"
    ]
    assert said, ran.whole
    return str(said[-1])


def test_text_which_is_always_streamed(seat_of: Seats, table: Table) -> None:
    seat = seat_of(NAME)
    table.begin(NAME, *KINDS)
    assert last_words(ask(seat, TEXT)) == SENTENCE
    table.seen(NAME, "text")
    table.seen(NAME, "stream")


def test_tool(seat_of: Seats, table: Table) -> None:
    prompt = calls("exec_command", {"cmd": "echo from the shell"})
    assert "from the shell" in last_words(ask(seat_of(NAME), prompt))
    table.seen(NAME, "tool")


def test_structured(seat_of: Seats, table: Table) -> None:
    seat = seat_of(NAME)
    shape = seat.place("shape.json", json.dumps(SHAPE))
    ran = ask(seat, SAYS_PERSON, "--output-schema", str(shape))
    assert json.loads(last_words(ran)) == PERSON
    table.seen(NAME, "structured")


def test_tool_of_an_mcp_server(seat_of: Seats, table: Table) -> None:
    label = f"{NAME} (MCP)"
    seat = seat_of(NAME, label=label)
    table.begin(label, "tool")
    settings = f"""
[mcp_servers.adder]
command = {json.dumps(sys.executable)}
args = [{json.dumps(str(SERVER))}]
default_tools_approval_mode = "approve"
"""
    ran = ask(seat, calls("mcp__adder__add", {"a": 2, "b": 3}), settings=settings)
    assert "the sum is 5" in last_words(ran), ran.whole
    table.seen(label, "tool")


def test_a_session_goes_on_after_a_picture(seat_of: Seats, table: Table) -> None:
    label = f"{NAME} (picture)"
    seat = seat_of(NAME, label=label)
    table.begin(label, "text", "tool")
    picture = seat.work / "picture.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    reads = f'[[call: view_image {{"path": "{picture}"}}]] [[say: it was seen]]'
    assert last_words(ask(seat, reads)) == "it was seen"
    table.seen(label, "tool")
    again = seat.run(
        "codex", "exec", "resume", "--last", "--skip-git-repo-check", "--json", "[[say: and on]]"
    )
    assert last_words(again) == "and on"
    table.seen(label, "text")
