"""Server-sent events as a client reads them: a body at once, or a stream line by line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

DONE: Final = "[DONE]"
"""The data of the last event of OpenAI's streams, the only data that is no JSON."""

FIELDS: Final = {"event", "data"}


class Event(NamedTuple):
    """One event: its name, None where it has none, and its data, parsed but for DONE."""

    name: str | None
    data: Any


class EventParser:
    """Put lines together to events; comments are passed over."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def feed(self, line: bytes) -> Event | None:
        """Return the event that this line ends, if it ends one."""
        text = line.decode().rstrip("\r\n")
        if text.startswith(":"):
            return None
        if text:
            name, _, value = text.partition(": ")
            assert name in FIELDS - self._fields.keys(), text
            self._fields[name] = value
            return None
        fields, self._fields = self._fields, {}
        if not fields:
            return None
        data = fields["data"]
        return Event(fields.get("event"), data if data == DONE else json.loads(data))


def events_of(body: bytes) -> list[Event]:
    """Return the events of a stream that was read to its end."""
    assert body.endswith(b"\n\n") or not body, "the last event is whole"
    parser = EventParser()
    events = (parser.feed(line) for line in body.split(b"\n"))
    return [event for event in events if event is not None]


def data_of(body: bytes) -> list[Any]:
    """Return the data of the events of a stream whose events have no names."""
    events = events_of(body)
    assert all(event.name is None for event in events)
    return [event.data for event in events]


async def events_from(lines: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """Yield the events of a stream as its lines come."""
    parser = EventParser()
    async for line in lines:
        if (event := parser.feed(line)) is not None:
            yield event


async def chat_events_from(lines: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    """Yield the chunks of a chat's stream as they come, without DONE. None of them is an error."""
    async for event in events_from(lines):
        if event.data != DONE:
            assert "error" not in event.data, event.data
            yield event.data


def chat_text(chunk: Any) -> str:
    """Return the text that a chunk of a chat's stream adds."""
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
