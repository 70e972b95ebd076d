"""Gather the items of a conversation into the messages that chat templates know.

The Responses and Messages dialects list a model's reasoning, text and calls one by one; templates
need them as one message of the assistant.

[front]
"""

from __future__ import annotations

from typing import Any, Final

PARAGRAPH: Final = "\n\n"


class _TextBuffer:
    """The parts of a text, and the separator between two of them."""

    def __init__(self, separator: str, *parts: str) -> None:
        self._separator = separator
        self._parts = [*parts]

    def add(self, part: str) -> None:
        self._parts.append(part)

    def joined(self) -> str:
        return self._separator.join(self._parts)


class ConversationBuilder:
    """Builds the messages of a conversation in the form of OpenAI's chat completions.

    `join_user_messages`: successive messages of the user become one, in paragraphs. The results of
    calls among them come first, where they answer the calls.
    """

    def __init__(self, *, join_user_messages: bool = False) -> None:
        self._join_user_messages = join_user_messages
        self._messages: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages so far. Texts are joined here, once: adding to a text copies all of it."""
        return [
            {
                key: value.joined() if isinstance(value, _TextBuffer) else value
                for key, value in message.items()
            }
            for message in self._messages
        ]

    @property
    def tool_calls(self) -> list[Any]:
        """All calls so far, with their free-form arguments."""
        return [message["tool_calls"] for message in self._messages if "tool_calls" in message]

    @property
    def last_role(self) -> str | None:
        """The role of the last message; None if there is no message."""
        return self._messages[-1]["role"] if self._messages else None

    @property
    def ends_with_tool_calls(self) -> bool:
        """True if the last message has calls, whose results do not follow."""
        return bool(self._messages) and "tool_calls" in self._messages[-1]

    def add_text(self, role: str, text: str) -> None:
        """Add text. Successive system prompts become one, in paragraphs."""
        if role == "assistant":
            self._assistant_message()["content"].add(text)
        elif self._continues(role):
            self._messages[-1]["content"].add(text)
        else:
            self._messages.append({"role": role, "content": _TextBuffer(PARAGRAPH, text)})

    def add_reasoning(self, text: str) -> None:
        """Add reasoning of the model; an empty text adds nothing."""
        if text:
            self._assistant_message().setdefault("reasoning_content", _TextBuffer("")).add(text)

    def add_tool_call(self, call_id: str, name: str, arguments: str | dict[str, Any]) -> None:
        """Add a call of the model; its arguments as JSON text, or as the object itself."""
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        self._assistant_message().setdefault("tool_calls", []).append(call)

    def add_tool_result(self, call_id: str, text: str) -> None:
        """Add the result of a call."""
        result = {"role": "tool", "tool_call_id": call_id, "content": text}
        if self._continues("user"):
            self._messages.insert(len(self._messages) - 1, result)
        else:
            self._messages.append(result)

    def _continues(self, role: str) -> bool:
        """Return True if text of this role continues the last message."""
        is_joined = role == "system" or (role == "user" and self._join_user_messages)
        return is_joined and bool(self._messages) and self._messages[-1]["role"] == role

    def _assistant_message(self) -> dict[str, Any]:
        """Return the last message if it is the assistant's, else a new one."""
        if not self._messages or self._messages[-1]["role"] != "assistant":
            self._messages.append({"role": "assistant", "content": _TextBuffer("")})
        return self._messages[-1]
