"""opencode, aider and llm, as in a terminal that is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.clients.table import KINDS
from tests.clients.trials.trial import LOOK, PERSON, SAYS_PERSON, SENTENCE, TEXT, calls

if TYPE_CHECKING:
    from tests.clients.conftest import Seats
    from tests.clients.seat import Seat
    from tests.clients.table import Table

pytestmark = pytest.mark.clients


def opencode(seat: Seat, prompt: str) -> str:
    """Ask one question headless and return the texts of the answer."""
    seat.place(".config/opencode/opencode.json")
    ran = seat.run("opencode", "run", "--format", "json", stdin=prompt)
    texts = [event["part"]["text"] for event in ran.events if event["type"] == "text"]
    assert texts, ran.whole
    return str(texts[-1])


def test_opencode_has_streamed_text_and_tools(seat_of: Seats, table: Table) -> None:
    seat = seat_of("opencode")
    table.begin("opencode", "text", "stream", "tool")
    assert opencode(seat, TEXT) == SENTENCE
    table.seen("opencode", "text")
    table.seen("opencode", "stream")
    prompt = calls("bash", {"command": "echo from the shell", "description": "Say so"})
    assert opencode(seat, prompt) == "The tool said: from the shell"
    table.seen("opencode", "tool")


AIDER: Final = (
    "--no-git",
    "--yes-always",
    "--no-check-update",
    "--analytics-disable",
    "--no-pretty",
    "--no-gitignore",
    "--no-show-release-notes",
)


def test_aider_has_text_streams_and_edits(seat_of: Seats, table: Table) -> None:
    """The tool of aider is an edit that the model writes as text."""
    seat = seat_of("aider")
    table.begin("aider", "text", "stream", "tool")
    ran = seat.shell(*AIDER, "--no-stream", "--message", TEXT)
    assert SENTENCE in unwrapped(ran.out), ran.whole
    assert "Unknown context window" not in ran.out + ran.err, ran.whole
    table.seen("aider", "text")
    assert SENTENCE in unwrapped(seat.shell(*AIDER, "--stream", "--message", TEXT).out)
    table.seen("aider", "stream")
    file = seat.work / "program.py"
    file.write_text('print("old")\n')
    edit = 'Please. [[say: program.py\n```\nprint("new")\n```\n]]'
    ran = seat.shell(*AIDER, "--edit-format", "whole", "program.py", "--message", edit)
    assert file.read_text() == 'print("new")\n', ran.whole
    table.seen("aider", "tool")


def unwrapped(text: str) -> str:
    """Return the text with one space for every run of blanks and ends of lines."""
    return " ".join(text.split())


LOOKS: Final = """
def look(at: str) -> str:
    "Look there."
    return f"{at} is wide"
"""


def llm(seat: Seat, *arguments: str) -> str:
    """Run llm with the model and return what it prints."""
    ran = seat.run("llm", "-m", seat.target.model, *arguments)
    assert ran.code == 0, ran.whole
    return ran.out.strip()


def test_llm_has_text_streams_tools_and_shapes(seat_of: Seats, table: Table) -> None:
    seat = seat_of("llm")
    table.begin("llm", *KINDS)
    seat.place(".config/io.datasette.llm/extra-openai-models.yaml")
    key = 'llm keys set mlx-worker --value "$MLX_WORKER_API_KEY"'
    assert seat.run("bash", "-euc", key).code == 0
    turns: dict[str, tuple[str | dict[str, Any], tuple[str, ...]]] = {
        "text": (SENTENCE, ("--no-stream", TEXT)),
        "stream": (SENTENCE, (TEXT,)),
        "tool": ("The tool said: the river is wide", ("--functions", LOOKS, LOOK)),
        "structured": (PERSON, ("--schema", "name, age int", SAYS_PERSON)),
    }
    for kind, (right, arguments) in turns.items():
        said = llm(seat, *arguments)
        assert (json.loads(said) if kind == "structured" else said) == right
        table.seen("llm", kind)
