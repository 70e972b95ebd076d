"""A conversation told in items, gathered into the turns that chat templates know.

The Responses and Messages dialects tell a model's thoughts, words and calls one by one; templates
want them as one turn of the assistant. [front]
"""

from __future__ import annotations

from typing import Any


class Turns:
    """Turns in the making, as OpenAI's chat completions write them."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []

    @property
    def calls(self) -> list[Any]:
        """All calls so far: what in them is free in form is the caller's."""
        return [turn["tool_calls"] for turn in self.made if "tool_calls" in turn]

    def said(self, role: str, text: str) -> None:
        """Words. System prompts that follow each other are one, in paragraphs."""
        if role == "assistant":
            self._own()["content"] += text
        elif role == "system" and self.made and self.made[-1]["role"] == "system":
            self.made[-1]["content"] += f"\n\n{text}"
        else:
            self.made.append({"role": role, "content": text})

    def thought(self, text: str) -> None:
        """What the model said to itself."""
        turn = self._own()
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def called(self, call_id: str, name: str, arguments: str | dict[str, Any]) -> None:
        """A call of the model's; its arguments as JSON, or as the object itself."""
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        self._own().setdefault("tool_calls", []).append(call)

    def answered(self, call_id: str, text: str) -> None:
        """What came of a call."""
        self.made.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _own(self) -> dict[str, Any]:
        """The assistant's turn that goes on, or a new one."""
        if not self.made or self.made[-1]["role"] != "assistant":
            self.made.append({"role": "assistant", "content": ""})
        return self.made[-1]
