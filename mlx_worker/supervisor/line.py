"""Who waits for one model, by session: whose turn is next, and who has most in line.

However many wait, each of these is answered at once: sessions are kept in the order of their
turns, and once more by how many they have in line. [front]
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict

Turn = asyncio.Future[None]


class Line:
    """Turns that have not come. A session is whatever it is called by; its first come first."""

    def __init__(self) -> None:
        self._round: OrderedDict[object, OrderedDict[Turn, None]] = OrderedDict()
        self._by_count: defaultdict[int, OrderedDict[object, None]] = defaultdict(OrderedDict)
        self._most = 0
        self._waiting = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    def count(self, session: object) -> int:
        """How many of this session wait."""
        return len(self._round.get(session, ()))

    def add(self, session: object, turn: Turn) -> None:
        """Behind those of its session; a session that has none in line comes last in the round."""
        turns = self._round.setdefault(session, OrderedDict())
        turns[turn] = None
        self._waiting += 1
        self._recount(session, len(turns) - 1, len(turns))

    def take(self) -> Turn:
        """The turn that is next; its session is the last in the round from here on."""
        session, turns = next(iter(self._round.items()))
        turn = next(iter(turns))
        self.drop(session, turn)
        if session in self._round:
            self._round.move_to_end(session)
        return turn

    def drop(self, session: object, turn: Turn) -> None:
        """It waits no longer. Harmless where it does not."""
        turns = self._round.get(session)
        if turns is None or turn not in turns:
            return
        del turns[turn]
        self._waiting -= 1
        if not turns:
            del self._round[session]
        self._recount(session, len(turns) + 1, len(turns))

    @property
    def most(self) -> int:
        """How many of any one session wait, at most."""
        return self._most

    def last_of_most(self) -> tuple[object, Turn]:
        """A session that has as many in line as any, and the last of them."""
        session = next(iter(self._by_count[self._most]))
        return session, next(reversed(self._round[session]))

    def _recount(self, session: object, before: int, now: int) -> None:
        """It had so many in line, and has one more or one less."""
        if before:
            del self._by_count[before][session]
            if not self._by_count[before]:
                del self._by_count[before]
        if now:
            self._by_count[now][session] = None
        if now > self._most or self._most not in self._by_count:
            self._most = now
