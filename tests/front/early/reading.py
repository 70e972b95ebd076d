"""A client with an idle limit, in injected time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.injected_time import now
from tests.sse import Event, EventParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientResponse

    from tests.dialects import Dialect
    from tests.front.asking import Front

IDLE_LIMIT = 10.0
"""Seconds without an event after which the clients here give up, as many agents do."""

PATIENCE = 200.0
"""Seconds: longer than any deadline of the node."""

TEXT = "one two three"


@dataclass
class Reader:
    """A stream that is read event by event; comments are no events, and no sign of life.

    `moments` are those of the request and of each event.
    """

    response: ClientResponse
    moments: list[float]
    limit: float
    body: bytes = b""

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events. Raises TimeoutError where one does not come within the limit."""
        parser = EventParser()
        while True:
            async with asyncio.timeout(self.moments[-1] + self.limit - now()):
                line = await self.response.content.readline()
            if not line:
                return
            self.body += line
            if event := parser.feed(line):
                self.moments.append(now())
                yield event

    async def rest(self) -> list[Event]:
        """Return all events that come."""
        return [event async for event in self.events()]

    @property
    def seconds(self) -> float:
        """Return the time from the request to the last event."""
        return self.moments[-1] - self.moments[0]


async def opened(
    front: Front, dialect: Dialect, text: str = TEXT, *, limit: float = IDLE_LIMIT
) -> Reader:
    """Ask for a stream, and wait for its head. Raises TimeoutError."""
    sent = now()
    async with asyncio.timeout(limit):
        response = await front.open(dialect.path, dialect.body(text, model="m", stream=True))
    return Reader(response, [sent], limit)
