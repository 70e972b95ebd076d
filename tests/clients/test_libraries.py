"""Libraries: each runs its trial, a script in its own prefix, with its own block."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.clients.table import KINDS
from tests.clients.trials.trial import LOOK, PERSON, SAYS_PERSON, SENTENCE, TEXT, calls

if TYPE_CHECKING:
    from tests.clients.conftest import Seats
    from tests.clients.table import Table

pytestmark = pytest.mark.clients


TRIALS: Final = {
    "litellm": ("config.yaml", "litellm_sdk.py"),
    "langchain-openai": ("configured.py", "langchain_models.py"),
    "langchain-anthropic": ("configured.py", "langchain_models.py"),
    "pydantic-ai": ("configured.py", "pydantic_ai_agent.py"),
    "instructor": ("configured.py", "instructor_client.py"),
    "openai-agents": ("configured.py", "openai_agents_runner.py"),
}
"""Where the block goes, and the script."""

OBJECTS: Final = {"instructor"}
"""Clients whose streams and calls are objects."""


@pytest.mark.parametrize("name", TRIALS)
def test_a_library_has_text_streams_tools_and_shapes(
    name: str, seat_of: Seats, table: Table
) -> None:
    place, script = TRIALS[name]
    seat = seat_of(name)
    table.begin(name, *KINDS)
    seat.place(f"work/{place}")
    outcome = seat.trial(script)
    wrong = _judge(name, outcome, table, objects=name in OBJECTS)
    # What one library alone has.
    more = {
        "full_context": "ContextWindowExceededError",
        "hosted_tool": "The tool said: the river is wide",
        "structured_by_tool": PERSON,
    }
    wrong |= {
        kind: outcome[kind] for kind, right in more.items() if outcome.get(kind, right) != right
    }
    assert not wrong, wrong


@pytest.mark.parametrize("provider", ["responses", "messages", "chat"])
def test_the_ai_sdk_has_text_streams_tools_and_shapes(
    provider: str, seat_of: Seats, table: Table
) -> None:
    label = f"ai ({provider})"
    seat = seat_of("ai", label=label)
    table.begin(label, *KINDS)
    seat.place("work/configured.mjs")
    # The provider of Messages has a model that it does not know call a tool `json`.
    shaped = calls("json", PERSON) if provider == "messages" else SAYS_PERSON
    prompts = {"text": TEXT, "tool": LOOK, "structured": shaped}
    wrong = _judge(label, seat.trial("ask.mjs", provider, json.dumps(prompts)), table)
    assert not wrong, wrong


def _judge(
    label: str, outcome: dict[str, Any], table: Table, *, objects: bool = False
) -> dict[str, Any]:
    """Record the turns that went well, and return the others."""
    streamed = outcome["stream"]
    right = {
        "text": outcome["text"] == SENTENCE,
        "stream": streamed == PERSON
        if objects
        else isinstance(streamed, list) and len(streamed) > 1 and "".join(streamed) == SENTENCE,
        "tool": outcome["tool"] == (PERSON if objects else "The tool said: the river is wide"),
        "structured": outcome["structured"] == PERSON,
    }
    for kind in KINDS:
        if right[kind]:
            table.seen(label, kind)
    return {kind: outcome[kind] for kind in KINDS if not right[kind]}
