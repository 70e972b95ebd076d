"""How long the first token of a long prompt takes: with a fast BLAS, with mlx's own, and peers.

    python -m tests.tools.first_token                       (SmolLM2; some minutes)
    python -m tests.tools.first_token --words 1500,6000 --rounds 3

A node with numpy's OpenBLAS, a node with mlx's own BLAS and mlx_lm.server run beside each other and
are asked in turn, each round in another order, with prompts that none has read before. The last
column is the time of the node with mlx's own BLAS over that of the node with numpy's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_worker.bench.client import LoadClient, LoadRequest
from mlx_worker.bench.prompts import Prompts
from mlx_worker.bench.servers.peer import Peer
from mlx_worker.bench.servers.server import HOST, Server, free_port, started
from mlx_worker.models.store import default_models_dir, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

FAST, OWN, PEER = "node, OpenBLAS", "node, mlx's own", "mlx_lm.server"
MODEL = "smollm2-135m"


@contextlib.contextmanager
def node(folder: Path, blas: str) -> Iterator[Server]:
    """A node of one model; everything but the BLAS is as a configuration without keys has it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "node.toml"
        file.write_text(
            f'[server]\nhost = "{HOST}"\nport = {port}\n[cpu]\nblas = "{blas}"\n'
            f"[supervisor]\nstandby = 0\n[cache]\ndisk = false\n"
            f'[[models]]\nid = "{MODEL}"\npath = "{folder}"\ndefault = true\n'
        )
        command = [sys.executable, "-m", "mlx_worker", "serve", "--config", str(file)]
        with started(command, port, (MODEL,), lambda _: {}) as server:
            yield server


async def first_token(server: Server, prompt: dict[str, str]) -> float:
    """Return the seconds until the first text of an answer of two tokens."""
    client = LoadClient(server.host, server.port, server.models[0])
    answer = await client.ask(LoadRequest([prompt], max_tokens=2))
    if answer.complaint and not answer.texts:
        raise SystemExit(answer.complaint)
    return answer.ttft


def measure(servers: dict[str, Server], words: int, rounds: int) -> dict[str, list[float]]:
    """Ask every server in turn, in another order each round."""
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    prompts = Prompts(f"first token {words}")
    names = list(servers)
    for number in range(rounds):
        prompt = prompts.user(words)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(asyncio.run(first_token(servers[name], prompt)))
            sys.stderr.write(f"{words} words, {name}: {seconds[name][-1]:.2f} s\n")
    return seconds


def main() -> None:
    """Print a table: medians in seconds."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.first_token")
    parser.add_argument("--model", default=MODEL, help="a folder, or a name in the models folder")
    parser.add_argument("--words", default="1500")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-peer", action="store_true")
    chosen = parser.parse_args()
    folder = Path(chosen.model)
    folder = folder if folder.is_dir() else locate(chosen.model, default_models_dir())
    with contextlib.ExitStack() as stack:
        servers = {
            FAST: stack.enter_context(node(folder, "auto")),
            OWN: stack.enter_context(node(folder, "bundled")),
        }
        if not chosen.without_peer:
            servers[PEER] = stack.enter_context(Peer(PEER).opened([folder]))
        rows = []
        for words in map(int, chosen.words.split(",")):
            found = measure(servers, words, chosen.rounds)
            medians = {name: statistics.median(seconds) for name, seconds in found.items()}
            rows.append((words, medians))
    lines = [f"| words | {' | '.join(servers)} | ratio |", "|---" * (len(servers) + 2) + "|"]
    for words, medians in rows:
        cells = " | ".join(f"{seconds:.2f} s" for seconds in medians.values())
        lines.append(f"| {words} | {cells} | {medians[OWN] / medians[FAST]:.1f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
