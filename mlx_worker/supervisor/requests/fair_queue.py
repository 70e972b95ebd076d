"""Who waits for one model, by key and by session: whose turn is next, and who has most in line.

Turns go round the keys, and with each turn of a key round its sessions: the names of sessions are
the caller's own word, so that many of them, or none, win nothing against the holder of another key.
However many wait, each of these is answered at once: keys and sessions are kept in the order of
their turns, and once more by how many they have in line. [front]
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from typing import NamedTuple

Turn = asyncio.Future[None]


class Place(NamedTuple):
    """Whose a turn is: the name of an API key, and a session among those of that key."""

    key: str
    session: object


class _Counts:
    """Names by a number that goes up and down by one."""

    def __init__(self) -> None:
        self._by_count: defaultdict[int, OrderedDict[object, None]] = defaultdict(OrderedDict)
        self.most = 0

    def one_of_most(self) -> object:
        """Return, of the names with the largest number, the last that came to have that."""
        return next(reversed(self._by_count[self.most]))

    def change(self, name: object, before: int, now: int) -> None:
        """Count a name that had a number, and has one more or one less."""
        if before:
            del self._by_count[before][name]
            if not self._by_count[before]:
                del self._by_count[before]
        if now:
            self._by_count[now][name] = None
        if now > self.most or self.most not in self._by_count:
            self.most = now


class _Sessions:
    """The turns of one key. A session's first come first."""

    def __init__(self) -> None:
        self._round: OrderedDict[object, OrderedDict[Turn, None]] = OrderedDict()
        self._counts = _Counts()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def count(self, session: object) -> int:
        return len(self._round.get(session, ()))

    def add(self, session: object, turn: Turn) -> None:
        turns = self._round.setdefault(session, OrderedDict())
        turns[turn] = None
        self._waiting += 1
        self._counts.change(session, len(turns) - 1, len(turns))

    def take(self) -> Turn:
        session, turns = next(iter(self._round.items()))
        turn = next(iter(turns))
        self.drop(session, turn)
        if session in self._round:
            self._round.move_to_end(session)
        return turn

    def drop(self, session: object, turn: Turn) -> bool:
        turns = self._round.get(session)
        if turns is None or turn not in turns:
            return False
        del turns[turn]
        self._waiting -= 1
        if not turns:
            del self._round[session]
        self._counts.change(session, len(turns) + 1, len(turns))
        return True

    @property
    def most(self) -> int:
        return self._counts.most

    def last_of_most(self) -> tuple[object, Turn]:
        session = self._counts.one_of_most()
        return session, next(reversed(self._round[session]))


class Line:
    """Turns that have not come."""

    def __init__(self) -> None:
        self._round: OrderedDict[str, _Sessions] = OrderedDict()
        self._counts = _Counts()
        self._waiting = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._waiting

    def add(self, place: Place, turn: Turn) -> None:
        """Put a turn behind those of its session; a new session or key comes last in its round."""
        sessions = self._round.setdefault(place.key, _Sessions())
        sessions.add(place.session, turn)
        self._waiting += 1
        self._counts.change(place.key, len(sessions) - 1, len(sessions))

    def take(self) -> Turn:
        """Return the turn that is next; its key and session are last in their rounds from now."""
        key, sessions = next(iter(self._round.items()))
        turn = sessions.take()
        self._shrunk(key, sessions)
        if key in self._round:
            self._round.move_to_end(key)
        return turn

    def drop(self, place: Place, turn: Turn) -> None:
        """Forget a turn. Harmless where it is not in line."""
        sessions = self._round.get(place.key)
        if sessions is not None and sessions.drop(place.session, turn):
            self._shrunk(place.key, sessions)

    def yields_to(self, place: Place) -> tuple[Place, Turn] | None:
        """Return the turn that gives way, in a full line, to one more of this place, if any.

        It is the last of the key with most, where that has more than this key would have; else,
        by the same rule, the last of the session with most among this key's own.
        """
        own = self._round.get(place.key, _Sessions())
        if self._counts.most > len(own) + 1:
            key = str(self._counts.one_of_most())
        elif own.most > own.count(place.session) + 1:
            key = place.key
        else:
            return None
        session, turn = self._round[key].last_of_most()
        return Place(key, session), turn

    def _shrunk(self, key: str, sessions: _Sessions) -> None:
        self._waiting -= 1
        self._counts.change(key, len(sessions) + 1, len(sessions))
        if not sessions:
            del self._round[key]
