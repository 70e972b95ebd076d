"""What goes wrong in a soak: one fault after the other, chosen by chance."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from tests.soak.asking import Ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from random import Random

    import aiohttp

    from tests.soak.asking import Client, Tally
    from tests.soak.watch import Watch

WEIGHTS: Final = {
    "kill": 8,
    "stop": 2,
    "garbage": 4,
    "kill a spare": 2,
    "restart": 2,
    "reload": 2,
    "slow client": 3,
    "client leaves": 4,
    "burst": 2,
}
BURST: Final = 60
"""Requests at once: more than the places and the line of one model."""

BETWEEN: Final = 10
"""Requests that may end between two faults; then there is nothing that was not in one's way."""

NO_MORE: Final = 3.0
"""Seconds after which the next fault comes although none has ended: faults meet recoveries too."""


class Faults:
    """Does them, and counts them."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        client: Client,
        bodies: list[dict[str, Any]],
        watch: Watch,
        config: Path,
        chance: Random,
    ) -> None:
        self._url = url
        self._session = session
        self._client = client
        self._bodies = bodies
        self._watch = watch
        self._config = config
        self._chance = chance
        self._stopped: set[int] = set()
        self._beside: set[asyncio.Task[Any]] = set()
        self.done: Counter[str] = Counter()
        self._acts: dict[str, Callable[[], Awaitable[bool]]] = {
            "kill": lambda: self._signal(signal.SIGKILL),
            "stop": lambda: self._signal(signal.SIGSTOP),
            "garbage": lambda: self._signal(signal.SIGUSR1),
            "kill a spare": self._kill_a_spare,
            "restart": self._restart,
            "reload": self._reload,
            "slow client": lambda: self._ask(slow=True),
            "client leaves": lambda: self._ask(leaves_after=self._chance.randint(1, 20)),
            "burst": self._burst,
        }

    async def run(self, count: int, tally: Tally) -> None:
        """So many faults, each kind at least once where they are enough for it."""
        kinds = list(WEIGHTS)
        self._chance.shuffle(kinds)
        kinds += self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
        for kind in kinds[:count]:
            while not await self._acts[kind]():  # nobody is there whom it could befall
                await self._watch.poll()
            self.done[kind] += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NO_MORE):
                    await tally.reaches(tally.ended.total() + self._chance.randint(0, BETWEEN))
        await asyncio.gather(*self._beside)

    async def _signal(self, number: signal.Signals) -> bool:
        model = self._chance.choice(list(self._watch.latest["models"].values()))
        pid = model["pid"]
        if pid is None or pid in self._watch.ended:
            return False
        if number == signal.SIGUSR1 and model["state"] != "ready":
            return False  # before it has put its handler there, it is a mere kill
        if number == signal.SIGSTOP and model["state"] == "starting":
            return False  # it has a minute for that: a soak has not
        if number == signal.SIGUSR1 and pid in self._stopped:
            return False  # it handles nothing any more
        return self._send(pid, number)

    async def _kill_a_spare(self) -> bool:
        spares = list(self._watch.latest["standby"]["waiting"])
        return bool(spares) and self._send(self._chance.choice(spares), signal.SIGKILL)

    def _send(self, pid: int, number: signal.Signals) -> bool:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        if number == signal.SIGSTOP:
            self._stopped.add(pid)
        else:
            self._watch.ended[pid] = None if number == signal.SIGUSR1 else monotonic()
        return True

    async def _restart(self) -> bool:
        name = self._chance.choice(list(self._watch.latest["models"]))
        async with self._session.post(f"{self._url}/admin/models/{name}/restart") as response:
            assert response.status == 202, await response.text()
        return True

    async def _reload(self) -> bool:
        """Another setting that a process has to know: both models get a new one."""
        pause = f"prefill_pause = {self._chance.uniform(0.05, 0.2):.4f}"
        text = re.sub(r"prefill_pause = \S+", pause, self._config.read_text(encoding="utf-8"))
        self._config.write_text(text, encoding="utf-8")
        async with self._session.post(f"{self._url}/admin/reload") as response:
            assert response.status == 200, await response.text()
        return True

    async def _ask(self, **manners: Any) -> bool:
        self._in_background(Ask(self._chance.choice(self._bodies), stream=True, **manners))
        return True

    async def _burst(self) -> bool:
        name = self._chance.choice(list(self._watch.latest["models"]))
        mine = [body for body in self._bodies if body["model"] == name]
        for _ in range(BURST):
            self._in_background(Ask(self._chance.choice(mine), stream=self._chance.random() < 0.5))
        return True

    def _in_background(self, ask: Ask) -> None:
        task = asyncio.create_task(self._client.ask(ask))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
