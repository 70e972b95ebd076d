"""Health, asked again and again: is it answered, how soon, and is it true?"""

from __future__ import annotations

import asyncio
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp

EVERY: Final = 0.05
TRUE_WITHIN: Final = 1.0
"""Seconds from a process's end to the last answer that may call its model ready."""


class Watch:
    """All polls of one soak.

    `ended` is told by whoever ends a process: its pid, and when; None: when it writes garbage,
    which its file in `garbled` tells.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, garbled: Path) -> None:
        self._url = f"{url}/health"
        self._session = session
        self._garbled = garbled
        self.ended: dict[int, float | None] = {}
        self.seen: set[int] = set()
        self.polls = 0
        self.unanswered = 0
        self.slowest = 0.0
        self.untrue: list[str] = []
        self.latest: dict[str, Any] = {}

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(EVERY)

    async def poll(self) -> None:
        asked = monotonic()
        self.polls += 1
        async with self._session.get(self._url) as response:
            body = await response.json()
            if response.status != 200:
                self.unanswered += 1
                return
        self.slowest = max(self.slowest, monotonic() - asked)
        self.latest = body
        self.seen.update(body["standby"]["waiting"])
        for name, model in body["models"].items():
            if (pid := model["pid"]) is None:
                continue
            self.seen.add(pid)
            gone = self._gone(pid, asked)
            if model["state"] == "ready" and gone > TRUE_WITHIN:
                self.untrue.append(f"{name} is ready {gone:.2f} s after the end of {pid}")

    def _gone(self, pid: int, asked: float) -> float:
        """Seconds from the process's end to the question."""
        at = self.ended.get(pid, asked)
        if at is not None:
            return asked - at
        file = self._garbled / str(pid)
        since = time() - file.stat().st_mtime if file.exists() else 0.0
        return since - (monotonic() - asked)

    async def until_whole(self) -> None:
        """Wait until every model is ready and every spare waits."""
        async with asyncio.timeout(60):
            while not self._is_whole():
                await self.poll()
                await asyncio.sleep(EVERY)

    def _is_whole(self) -> bool:
        if not self.latest:
            return False
        standby = self.latest["standby"]
        models = self.latest["models"].values()
        ready = all(
            model["state"] == "ready" and model["pid"] not in self.ended for model in models
        )
        return ready and len(standby["waiting"]) == standby["wanted"]
