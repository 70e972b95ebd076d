"""Claude Code, headless: tools, pictures, small contexts and templates that refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from PIL import Image

from tests.clients.table import KINDS
from tests.clients.trials.trial import PERSON, SENTENCE, TEXT, calls

if TYPE_CHECKING:
    from tests.clients.conftest import Seats
    from tests.clients.seat import Ran, Seat
    from tests.clients.table import Table

pytestmark = pytest.mark.clients


NAME: Final = "claude-code"
SHELL: Final = calls("Bash", {"command": "echo from the shell", "description": "Say so"})
AS_JSON: Final = ("--output-format", "json")
SHAPE: Final = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


def ask(seat: Seat, prompt: str, *options: str) -> dict[str, Any]:
    """Ask one question headless and return what Claude Code says of the turn."""
    ran = seat.shell("-p", prompt, *AS_JSON, *options)
    return result_of(ran)


def result_of(ran: Ran) -> dict[str, Any]:
    results = [event for event in ran.events if event.get("type") == "result"]
    assert results, ran.whole
    assert not results[-1]["is_error"], ran.whole
    found: dict[str, Any] = results[-1]
    return found


def test_text(seat_of: Seats, table: Table) -> None:
    seat = seat_of(NAME)
    table.begin(NAME, *KINDS)
    answered = ask(seat, TEXT)
    assert answered["result"] == SENTENCE
    assert answered["modelUsage"]["talker"]["contextWindow"] == seat.target.context
    table.seen(NAME, "text")


def test_stream(seat_of: Seats, table: Table) -> None:
    options = ("--output-format", "stream-json", "--verbose", "--include-partial-messages")
    ran = seat_of(NAME).shell("-p", TEXT, *options)
    assert result_of(ran)["result"] == SENTENCE
    deltas = [
        event["event"]["delta"]["text"]
        for event in ran.events
        if event.get("event", {}).get("delta", {}).get("type") == "text_delta"
    ]
    assert len(deltas) > 1
    assert "".join(deltas) == SENTENCE
    table.seen(NAME, "stream")


def test_tool(seat_of: Seats, table: Table) -> None:
    answered = ask(seat_of(NAME), SHELL, "--allowedTools", "Bash")
    assert answered["result"] == "The tool said: from the shell"
    table.seen(NAME, "tool")


def test_structured(seat_of: Seats, table: Table) -> None:
    prompt = calls("StructuredOutput", PERSON)
    answered = ask(seat_of(NAME), prompt, "--json-schema", json.dumps(SHAPE))
    assert answered["structured_output"] == PERSON
    table.seen(NAME, "structured")


@pytest.mark.parametrize(
    ("model", "compacts"),
    [
        # Its own prompt fills this context so far that, told the length, it compacts at once.
        ("talker-16k", True),
        ("talker-32k", False),
        ("system-first", False),
        ("alternating", False),
    ],
)
def test_tool_on_a_small_context_or_a_strict_template(
    model: str, compacts: bool, seat_of: Seats, table: Table
) -> None:
    label = f"{NAME} ({model})"
    seat = seat_of(NAME, model=model, label=label)
    table.begin(label, "text", "tool")
    # Without limits in its settings it asks for 32,000 tokens whatever the model has.
    unlimited = replace(seat, target=replace(seat.target, context=None))
    for each in (seat, unlimited):
        assert ask(each, TEXT)["result"] == SENTENCE
    table.seen(label, "text")
    for each in (unlimited,) if compacts else (seat, unlimited):
        answered = ask(each, SHELL, "--allowedTools", "Bash")
        assert answered["result"] == "The tool said: from the shell"
    table.seen(label, "tool")


def test_a_session_goes_on_after_a_picture(seat_of: Seats, table: Table) -> None:
    label = f"{NAME} (picture)"
    seat = seat_of(NAME, label=label)
    table.begin(label, "text", "tool")
    picture = seat.work / "picture.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    reads = f'[[call: Read {{"file_path": "{picture}"}}]] [[say: it was seen]]'
    answered = ask(seat, reads, "--allowedTools", "Read")
    assert answered["result"] == "it was seen"
    table.seen(label, "tool")
    again = ask(seat, "[[say: and on it goes]]", "--resume", answered["session_id"])
    assert again["result"] == "and on it goes"
    table.seen(label, "text")


def test_a_prompt_beyond_the_context_is_said_to_be_too_long(seat_of: Seats) -> None:
    seat = seat_of(NAME, model="talker-16k")
    ran = seat.shell("-p", *AS_JSON, stdin="word " * 30_000)
    result = ran.events[-1]
    assert result["is_error"], ran.whole
    assert "Prompt is too long" in result["result"]
