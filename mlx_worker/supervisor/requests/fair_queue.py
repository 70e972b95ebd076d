"""The requests that wait for one model, in a fair order by API key and session.

Tickets are served round-robin over the keys, and within a key round-robin over its sessions. The
names of sessions are the client's own, so that many of them, or none, win nothing against another
key. However many requests wait, every operation here takes constant time: keys and sessions are
kept in the order of service, and once more by the number of their tickets.

[front]
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from typing import NamedTuple

Ticket = asyncio.Future[None]


class Place(NamedTuple):
    """The place of a ticket: the name of an API key, and a session of that key."""

    key: str
    session: object


class _Counts:
    """Names by a count that goes up and down by one."""

    def __init__(self) -> None:
        self._by_count: defaultdict[int, OrderedDict[object, None]] = defaultdict(OrderedDict)
        self.highest = 0

    def newest_of_highest(self) -> object:
        """Return, of the names with the highest count, the last one that reached the count."""
        return next(reversed(self._by_count[self.highest]))

    def change(self, name: object, before: int, now: int) -> None:
        """Move a name from one count to the next higher or lower one."""
        if before:
            del self._by_count[before][name]
            if not self._by_count[before]:
                del self._by_count[before]
        if now:
            self._by_count[now][name] = None
        if now > self.highest or self.highest not in self._by_count:
            self.highest = now


class _Sessions:
    """The tickets of one key; those of a session are served in the order of their arrival."""

    def __init__(self) -> None:
        self._round: OrderedDict[object, OrderedDict[Ticket, None]] = OrderedDict()
        self._counts = _Counts()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def count(self, session: object) -> int:
        return len(self._round.get(session, ()))

    def add(self, session: object, ticket: Ticket) -> None:
        tickets = self._round.setdefault(session, OrderedDict())
        tickets[ticket] = None
        self._waiting += 1
        self._counts.change(session, len(tickets) - 1, len(tickets))

    def pop(self) -> Ticket:
        session, tickets = next(iter(self._round.items()))
        ticket = next(iter(tickets))
        self.remove(session, ticket)
        if session in self._round:
            self._round.move_to_end(session)
        return ticket

    def remove(self, session: object, ticket: Ticket) -> bool:
        tickets = self._round.get(session)
        if tickets is None or ticket not in tickets:
            return False
        del tickets[ticket]
        self._waiting -= 1
        if not tickets:
            del self._round[session]
        self._counts.change(session, len(tickets) + 1, len(tickets))
        return True

    @property
    def longest(self) -> int:
        return self._counts.highest

    def newest_of_longest_session(self) -> tuple[object, Ticket]:
        session = self._counts.newest_of_highest()
        return session, next(reversed(self._round[session]))


class TicketQueue:
    """The tickets that wait."""

    def __init__(self) -> None:
        self._round: OrderedDict[str, _Sessions] = OrderedDict()
        self._counts = _Counts()
        self._waiting = 0

    def __len__(self) -> int:
        """Return the number of tickets."""
        return self._waiting

    def add(self, place: Place, ticket: Ticket) -> None:
        """Add a ticket behind those of its session; a new session or key is served last."""
        sessions = self._round.setdefault(place.key, _Sessions())
        sessions.add(place.session, ticket)
        self._waiting += 1
        self._counts.change(place.key, len(sessions) - 1, len(sessions))

    def pop(self) -> Ticket:
        """Remove and return the next ticket; its key and session are served last from now on."""
        key, sessions = next(iter(self._round.items()))
        ticket = sessions.pop()
        self._on_removed(key, sessions)
        if key in self._round:
            self._round.move_to_end(key)
        return ticket

    def remove(self, place: Place, ticket: Ticket) -> None:
        """Remove a ticket. Do nothing if it does not wait."""
        sessions = self._round.get(place.key)
        if sessions is not None and sessions.remove(place.session, ticket):
            self._on_removed(place.key, sessions)

    def displaced_by(self, place: Place) -> tuple[Place, Ticket] | None:
        """Return the ticket that a full queue drops for one more of this place; None for none.

        It is the newest ticket of the key with most tickets, if that key has more than this key
        would have. Else, by the same rule, it is the newest of this key's longest session.
        """
        own = self._round.get(place.key, _Sessions())
        if self._counts.highest > len(own) + 1:
            key = str(self._counts.newest_of_highest())
        elif own.longest > own.count(place.session) + 1:
            key = place.key
        else:
            return None
        session, ticket = self._round[key].newest_of_longest_session()
        return Place(key, session), ticket

    def _on_removed(self, key: str, sessions: _Sessions) -> None:
        self._waiting -= 1
        self._counts.change(key, len(sessions) + 1, len(sessions))
        if not sessions:
            del self._round[key]
