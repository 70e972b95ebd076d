"""A conversation as the client of a dialect holds and sends it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from random import Random

DIALECT_NAMES: Final = ("chat", "messages", "responses")
PARAMETERS: Final = {
    "type": "object",
    "properties": {
        "at": {"type": "string"},
        "far": {"type": "integer"},
        "sure": {"type": "boolean"},
        "ways": {"type": "array", "items": {"type": "string"}},
    },
}
NAMES: Final = ("look", "walk")
BEYOND_ASCII: Final = ("東京", "Grüße", "🙂", "naïve—", "Ω≈ç", "👩‍👩‍👧")


def words(random: Random, most: int = 8) -> str:
    """Return a few words, some of them beyond ASCII."""
    chosen = [
        random.choice(BEYOND_ASCII if random.random() < 0.15 else WORDS)
        for _ in range(random.randint(1, most))
    ]
    return " ".join(chosen)


@dataclass
class Client:
    """Hold one conversation as a client of a dialect holds it.

    `keeps_reasoning`: the client sends the model's reasoning back. `encodes`: it writes arguments
    in an encoding of its own.
    """

    dialect: str
    system: str
    keeps_reasoning: bool
    encodes: bool
    turns: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Add a message of the user."""
        self.turns.append({"role": "user", "content": text})

    def body(self, **fields: Any) -> bytes:
        """Return the body of the next request."""
        functions = [{"name": name, "description": f"{name} there"} for name in NAMES]
        body: dict[str, Any]
        match self.dialect:
            case "chat":
                system = {"role": "system", "content": self.system}
                tools: list[Any] = [
                    {"type": "function", "function": function | {"parameters": PARAMETERS}}
                    for function in functions
                ]
                body = {"messages": [system, *self.turns], "tools": tools}
            case "messages":
                tools = [function | {"input_schema": PARAMETERS} for function in functions]
                body = {"system": self.system, "messages": self.turns, "tools": tools}
            case _:
                tools = [
                    {"type": "function", "parameters": PARAMETERS} | function
                    for function in functions
                ]
                body = {"instructions": self.system, "input": self.turns, "tools": tools}
                if limit := fields.pop("max_tokens", None):
                    fields["max_output_tokens"] = limit
        return json.dumps({"temperature": 0, **body, **fields}).encode()

    def receive(self, answer: Any) -> None:
        """Add the model's turn."""
        match self.dialect:
            case "chat":
                message = answer["choices"][0]["message"]
                message.pop("reasoning", None)
                if not self.keeps_reasoning:
                    message.pop("reasoning_content", None)
                calls = message.get("tool_calls", [])
                for call in calls if self.encodes else []:
                    arguments = json.loads(call["function"]["arguments"])
                    call["function"]["arguments"] = json.dumps(arguments, separators=(",", ":"))
                self.calls = [call["id"] for call in calls]
                self.turns.append(message)
            case "messages":
                blocks = [
                    block
                    for block in answer["content"]
                    if self.keeps_reasoning or block["type"] != "thinking"
                ]
                self.calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
                if blocks:
                    self.turns.append({"role": "assistant", "content": blocks})
            case _:
                items = [
                    item
                    for item in answer["output"]
                    if self.keeps_reasoning or item["type"] != "reasoning"
                ]
                self.calls = [item["call_id"] for item in items if item["type"] == "function_call"]
                self.turns += items

    def give_results(self, random: Random) -> None:
        """Add the results of the last turn's calls."""
        results = [(call, words(random, 20)) for call in self.calls]
        match self.dialect:
            case "chat":
                self.turns += [
                    {"role": "tool", "tool_call_id": call, "content": text}
                    for call, text in results
                ]
            case "messages":
                blocks = [
                    {"type": "tool_result", "tool_use_id": call, "content": text}
                    for call, text in results
                ]
                self.turns.append({"role": "user", "content": blocks})
            case _:
                self.turns += [
                    {"type": "function_call_output", "call_id": call, "output": text}
                    for call, text in results
                ]
