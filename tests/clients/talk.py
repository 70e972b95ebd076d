"""Say what the made model of the client tests answers: a rule over the conversation, no network.

A user's turn may carry directives, which are the model's next turns in their order:

    [[say: some words]]               these words
    [[call: NAME {"key": "value"}]]   a call of the tool NAME with these arguments
    [[tell]]                          "The tool said: " and the newest tool result

Each answer of the model after that turn is one directive; after the last directive the last one is
repeated. A call of a tool that the prompt does not offer becomes a sentence that says so. Without
any directive the model says GREETING. A prompt that is no chat is continued with a fixed row of
words, one a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

TURN_BEGINS: Final = "<|im_start|>"
TURN_ENDS: Final = "<|im_end|>"
CALL_BEGINS: Final = "<tool_call>"
CALL_ENDS: Final = "</tool_call>"
GREETING: Final = "Hello from the node."
TOLD: Final = "The tool said: "
ROW: Final = (" one", " two", " three", " four", " five", " six", " seven", " eight")
"""How a completion goes on."""

_TURN: Final = re.compile(
    re.escape(TURN_BEGINS) + r"(\w+)\n(.*?)" + re.escape(TURN_ENDS), re.DOTALL
)
_DIRECTIVE: Final = re.compile(r"\[\[(say|call|tell)(?::\s*(.*?))?\]\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat as the template wrote the turn."""

    role: str
    text: str


def turns_of(prompt: str) -> list[Turn]:
    """Return the finished turns of a prompt, in their order."""
    return [Turn(role, text) for role, text in _TURN.findall(prompt)]


def answer(prompt: str) -> str:
    """Return what the model says after this prompt, which ends where the model's turn begins."""
    turns = turns_of(prompt)
    asked = next(
        (
            place
            for place in reversed(range(len(turns)))
            if turns[place].role == "user" and _DIRECTIVE.search(turns[place].text)
        ),
        None,
    )
    if asked is None:
        return GREETING
    steps = _DIRECTIVE.findall(turns[asked].text)
    since = turns[asked + 1 :]
    done = sum(turn.role == "assistant" for turn in since)
    verb, words = steps[min(done, len(steps) - 1)]
    if verb == "call":
        return _call(words, offered="".join(turn.text for turn in turns if turn.role == "tools"))
    if verb == "tell":
        results = [turn.text for turn in since if turn.role == "tool"]
        return TOLD + (results[-1].strip() if results else "nothing")
    return str(words).strip()


def _call(words: str, offered: str) -> str:
    name, _, arguments = words.strip().partition(" ")
    if f'"name": "{name}"' not in offered:
        return f"There is no tool {name} here."
    return f'{CALL_BEGINS}\n{{"name": "{name}", "arguments": {arguments.strip() or "{}"}}}\n{CALL_ENDS}'
