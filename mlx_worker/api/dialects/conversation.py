"""A conversation told in items, gathered into the turns that chat templates know.

The Responses and Messages dialects tell a model's thoughts, words and calls one by one; templates
want them as one turn of the assistant. [front]
"""

from __future__ import annotations

from typing import Any, Final

PARAGRAPH: Final = "\n\n"


class _Text:
    """A text in the making: its parts, and what stands between two of them."""

    def __init__(self, between: str, *parts: str) -> None:
        self._between = between
        self._parts = [*parts]

    def add(self, part: str) -> None:
        self._parts.append(part)

    def joined(self) -> str:
        return self._between.join(self._parts)


class Turns:
    """Turns in the making, as OpenAI's chat completions write them.

    `joins_users`: what a user says several times in a row is one turn, in paragraphs. The results
    of calls among it are in front, where they answer the calls.
    """

    def __init__(self, *, joins_users: bool = False) -> None:
        self._joins_users = joins_users
        self._turns: list[dict[str, Any]] = []

    @property
    def made(self) -> list[dict[str, Any]]:
        """All turns so far. Texts are joined here, once: adding to a text copies all of it."""
        return [
            {key: it if not isinstance(it, _Text) else it.joined() for key, it in turn.items()}
            for turn in self._turns
        ]

    @property
    def calls(self) -> list[Any]:
        """All calls so far: what in them is free in form is the caller's."""
        return [turn["tool_calls"] for turn in self._turns if "tool_calls" in turn]

    @property
    def last_role(self) -> str | None:
        """The role of the last turn; None where there is no turn."""
        return self._turns[-1]["role"] if self._turns else None

    @property
    def ends_with_calls(self) -> bool:
        """True if the last turn has calls, whose results do not follow."""
        return bool(self._turns) and "tool_calls" in self._turns[-1]

    def said(self, role: str, text: str) -> None:
        """Words. System prompts that follow each other are one, in paragraphs."""
        if role == "assistant":
            self._own()["content"].add(text)
        elif self._goes_on(role):
            self._turns[-1]["content"].add(text)
        else:
            self._turns.append({"role": role, "content": _Text(PARAGRAPH, text)})

    def thought(self, text: str) -> None:
        """What the model said to itself; nothing where its server told nothing of it."""
        if text:
            self._own().setdefault("reasoning_content", _Text("")).add(text)

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
        result = {"role": "tool", "tool_call_id": call_id, "content": text}
        if self._goes_on("user"):
            self._turns.insert(len(self._turns) - 1, result)
        else:
            self._turns.append(result)

    def _goes_on(self, role: str) -> bool:
        """Return True if the last turn is of this role, and one with what comes."""
        joins = role == "system" or (role == "user" and self._joins_users)
        return joins and bool(self._turns) and self._turns[-1]["role"] == role

    def _own(self) -> dict[str, Any]:
        """The assistant's turn that goes on, or a new one."""
        if not self._turns or self._turns[-1]["role"] != "assistant":
            self._turns.append({"role": "assistant", "content": _Text("")})
        return self._turns[-1]
