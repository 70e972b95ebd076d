"""Print what each router costs a request: its CPU, the node's CPU, and the time to the first token.

For contributors: `python -m tests.tools.router_cost [--router nginx …] [--nodes 50] [--rounds 3]`.
Routers are those of `tests/routers`, each with what `mlx-worker router-config` prints. The nodes
are whole fronts whose children have no model and take two milliseconds for a token. CPU is user
and system time of processes, less what they take without requests: that holds on a busy machine
too. Requests through the router and directly to the nodes take turns, thirty at a time. The ratio
of their times to the first token is that of the fastest tenths, which other work delays least.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import psutil

from tests.clients.prefixes import NotInstalled
from tests.processes import eventually
from tests.routers.fleet import KEY, KINDS, Kind, started_router
from tests.tools.fleet_cost import A_PROCESS, Served, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PACE: Final = 0.002
"""Seconds that a node takes for a token."""

TURNS: Final = 10
BLOCK: Final = 30
"""Short requests that go one way before as many go the other way, and how often they do."""

STREAMS: Final = 16
TOKENS: Final = 100
LONG: Final = 96
"""Long answers of a round, that many at the same time, and the tokens of each."""

ANSWER: Final = 300
BUSY: Final = 400
"""For the arithmetic: tokens of an answer, and tokens a second of a busy node."""

START_DEADLINE: Final = 180.0
"""Seconds: far beyond what the slowest router takes to start on a busy machine."""


def tree_cpu(pid: int) -> float:
    """Return the seconds of CPU that a process and its children have taken."""
    top = psutil.Process(pid)
    total = 0.0
    for process in (top, *top.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


class Caller:
    """A connection that asks for streams, one after the other."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def ask(self, session: str, tokens: int) -> float:
        """Stream an answer of this length to its end; return the seconds to its first token."""
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": " ".join(["word"] * tokens)}],
            "stream": True,
        }
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {KEY}",
            "X-Session-Id": session,
        }
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = self._connection.getresponse()
        first = 0.0
        received = []
        for line in response:
            received.append(line)
            if not first and b"word" in line:
                first = time.perf_counter() - began
        text = b"".join(received)
        if response.status != 200 or text.count(b"word") != tokens:
            raise ConnectionError(f"status {response.status}: {text[:300]!r}")
        return first

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def ask_in_turn(urls: Sequence[str], sessions: Iterator[str]) -> list[float]:
    """Ask for short answers, each address in its turn; return the seconds to each first token."""
    callers = [Caller(url) for url in urls]
    found = [callers[at % len(callers)].ask(next(sessions), 1) for at in range(BLOCK)]
    for caller in callers:
        caller.close()
    return found


def ask_at_once(urls: Sequence[str], sessions: Iterator[str]) -> list[float]:
    """Ask for long answers, many at the same time; return the seconds to each first token."""
    named = [(urls[at % len(urls)], next(sessions)) for at in range(LONG)]

    def ask(place: tuple[str, str]) -> float:
        caller = Caller(place[0])
        try:
            return caller.ask(place[1], TOKENS)
        finally:
            caller.close()

    with ThreadPoolExecutor(STREAMS) as pool:
        return list(pool.map(ask, named))


# --- one way from the client to the nodes -------------------------------------------------


@dataclass
class Spent:
    """Seconds of CPU of requests of one kind that went one way."""

    router: float = 0
    node: float = 0
    requests: int = 0

    def add(self, other: Spent) -> None:
        """Add what more requests have taken."""
        self.router += other.router
        self.node += other.node
        self.requests += other.requests


class Way:
    """Addresses to ask, and the processes that work when they are asked."""

    def __init__(
        self, urls: Sequence[str], router: Callable[[], float], nodes: Sequence[Served]
    ) -> None:
        self._urls = urls
        self._router = router
        self._nodes = nodes
        self._idle = (0.0, 0.0)

    def _cpu(self) -> tuple[float, float]:
        return self._router(), sum(served.cpu() for served in self._nodes)

    def rest(self, seconds: float) -> tuple[float, float]:
        """Return the shares of a core of router and nodes without requests, and subtract them."""
        before = self._cpu()
        time.sleep(seconds)
        router, nodes = ((b - a) / seconds for a, b in zip(before, self._cpu(), strict=True))
        self._idle = router, nodes
        return self._idle

    def work(
        self,
        ask: Callable[[Sequence[str], Iterator[str]], list[float]],
        sessions: Iterator[str],
    ) -> tuple[Spent, list[float]]:
        """Return the CPU of some requests, and the seconds to their first tokens."""
        before, began = self._cpu(), time.monotonic()
        firsts = ask(self._urls, sessions)
        took = time.monotonic() - began
        router, nodes = (
            after - first - idle * took
            for first, after, idle in zip(before, self._cpu(), self._idle, strict=True)
        )
        return Spent(router, nodes, len(firsts)), firsts

    def answers(self) -> bool:
        """True if a request is answered."""
        try:
            caller = Caller(self._urls[0])
            caller.ask("first", 1)
            caller.close()
        except (OSError, http.client.HTTPException):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Cost:
    """What a router costs: milliseconds of CPU a request, microseconds a token, shares."""

    router_ms: float
    node_ms: float
    direct_ms: float
    router_us: float
    first_token: float
    idle: float

    @property
    def answer_ms(self) -> float:
        """Milliseconds of the router's CPU for an answer of the usual length."""
        return self.router_ms + (ANSWER - 1) * self.router_us / 1e3

    @property
    def nodes_of_a_core(self) -> float:
        """The number of busy nodes whose answers take a core of the router."""
        return ANSWER / BUSY / (self.answer_ms / 1e3)


def session_names() -> Iterator[str]:
    """Yield names of sessions, each a new one."""
    number = 0
    while True:
        number += 1
        yield f"session-{number:08x}"


def compare(routed: Way, direct: Way, rounds: int, seconds: float) -> Cost:
    """Send requests through the router and directly, in turns."""
    sessions = session_names()
    idle = [routed.rest(seconds)[0]]
    direct.rest(seconds)
    short = {routed: Spent(), direct: Spent()}
    long = Spent()
    ratios = []
    for _ in range(rounds):
        firsts: dict[Way, list[float]] = {routed: [], direct: []}
        for _ in range(TURNS):
            for way, total in short.items():
                spent, seen = way.work(ask_in_turn, sessions)
                total.add(spent)
                firsts[way] += seen
        ratios.append(quantiles(firsts[routed], n=10)[0] / quantiles(firsts[direct], n=10)[0])
        long.add(routed.work(ask_at_once, sessions)[0])
        idle.append(routed.rest(seconds)[0])
    a_request, a_long = (spent.router / spent.requests for spent in (short[routed], long))
    return Cost(
        router_ms=1e3 * a_request,
        node_ms=1e3 * short[routed].node / short[routed].requests,
        direct_ms=1e3 * short[direct].node / short[direct].requests,
        router_us=1e6 * (a_long - a_request) / (TOKENS - 1),
        first_token=median(ratios),
        idle=100 * median(idle),
    )


def cost_of(kind: Kind, nodes: int, rounds: int, seconds: float) -> Cost:
    """Measure a router in front of this number of nodes. Raises NotInstalled."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        counts = [min(A_PROCESS, nodes - at) for at in range(0, nodes, A_PROCESS)]
        served = [stack.enter_context(serving(count, PACE)) for count in counts]
        urls = [url for one in served for url in one.urls]
        router = stack.enter_context(started_router(kind, folder, urls))
        routed = Way([router.url], partial(tree_cpu, router.process.pid), served)
        eventually(routed.answers, START_DEADLINE)
        for url in urls:
            ask_in_turn([url], session_names())
        return compare(routed, Way(urls[:1], float, served), rounds, seconds)


# --- the tables ---------------------------------------------------------------------------

COLUMNS: Final = (
    "router",
    "nodes",
    "CPU of the router, ms a request",
    "µs a token",
    "CPU of the node, ms a request",
    "directly",
    "time to first token, times",
    "router without requests, % of a core",
    f"CPU of the router, ms for {ANSWER} tokens",
    f"nodes a core carries, {BUSY} tokens/s each",
)


def row(kind: Kind, nodes: int, cost: Cost) -> str:
    """Return a row of the table; the last two cells are computed."""
    cells = (
        f"{kind.name} {kind.version}",
        nodes,
        f"{cost.router_ms:.2f}",
        f"{cost.router_us:.0f}",
        f"{cost.node_ms:.2f}",
        f"{cost.direct_ms:.2f}",
        f"{cost.first_token:.2f}",
        f"{cost.idle:.2f}",
        f"{cost.answer_ms:.1f}",
        f"{cost.nodes_of_a_core:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


@click.command()
@click.option("--router", "names", multiple=True, type=click.Choice([*KINDS]), default=[*KINDS])
@click.option("--nodes", default=50, help="of the second row of each router")
@click.option("--rounds", default=3)
@click.option("--seconds", default=5.0, help="without requests, each time")
def main(names: Sequence[str], nodes: int, rounds: int, seconds: float) -> None:
    """Print what routers cost a request, in front of two nodes and of many."""
    click.echo(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in names:
        kind = KINDS[name]
        try:
            for count in sorted({2, nodes}):
                click.echo(row(kind, count, cost_of(kind, count, rounds, seconds)))
        except NotInstalled as error:
            click.echo(f"{name}: {error}", err=True)


if __name__ == "__main__":
    main()
