"""What several processes of one model cost and give: throughput, and what a step has besides.

For contributors: `python -m tests.tools.ranks_cost throughput [--rounds 3] [--model FOLDER]`,
`python -m tests.tools.ranks_cost step` and `python -m tests.tools.ranks_cost idle [--seconds 20]`
on a machine that does nothing else.

- throughput: 1, 8 and 32 streams of one process, of two ranks by heads and by layers, and of
  mlx_lm.server under `mlx.launch` on the same two ranks. One server runs at a time: the ranks of
  mlx_lm.server use the CPU while they wait.
- step: the operation that tells the other rank of a step, and the collective that shares the
  tokens, beside one of the model's own collectives.
- idle: the CPU of each process of a model that has nothing to do, in percent of a core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import click
import mlx.core as mx
import psutil

from mlx_worker.bench.processes import family
from mlx_worker.bench.scenarios.streams import Streams
from mlx_worker.bench.servers.server import HOST, WARM_UP, Server, free_port, started
from mlx_worker.bench.servers.target import READERS, ROWS
from mlx_worker.bench.synthetic.family import Spec
from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.engine.ranks.ring import ReservedPort, join_ring
from mlx_worker.errors import BenchmarkError
from tests.engine.ranks.harness import run_ranks
from tests.processes import eventually, running_node
from tests.synthetic_models import QWEN2, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

STREAMS: Final = (1, 8, 32)
REQUESTS: Final = 1
MODEL: Final = Spec(hidden=256, layers=8, heads=8, intermediate=512, seed=1, padding=8000)
"""A model whose step is some milliseconds, of a family that is split both ways."""

SECTIONS: Final = {
    "one process": "",
    "two ranks, tensor": "ranks = 2",
    "two ranks, pipeline": 'ranks = 2\nsplit = "pipeline"',
}
CALLS: Final = 500
HIDDEN: Final = MODEL.hidden


# --- throughput ---


@contextlib.contextmanager
def node(folder: Path, section: str) -> Iterator[Server]:
    settings = f"max_concurrency = {ROWS}\nmax_queue = {ROWS}\n{section}"
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_node(Path(scratch), {"bench": folder}, extra=settings, port=port) as running,
    ):
        running.wait_until_ready()
        pid = running.process.pid
        yield Server(HOST, port, ("bench",), lambda: {"server": family(pid)})


def write_index(folder: Path) -> None:
    """Write the index of weights that mlx_lm.server reads for a split by layers."""
    (weights,) = folder.glob("*.safetensors")
    names = dict.fromkeys(mx.load(str(weights)), weights.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def launched(folder: Path, split: str) -> AbstractContextManager[Server]:
    """mlx_lm.server on two ranks of this machine."""
    port, programs = free_port(), Path(sys.executable).parent
    command = [
        *(str(programs / "mlx.launch"), "-n", "2", "--backend", "ring", "--"),
        *(str(programs / "mlx_lm.server"), "--model", str(folder), "--log-level", "WARNING"),
        *("--host", HOST, "--port", str(port)),
        *("--decode-concurrency", str(ROWS), "--prompt-concurrency", str(READERS)),
        *(["--pipeline"] if split == "pipeline" else []),
    ]
    return started(command, port, ("default_model",), lambda pid: {"server": family(pid)})


def throughput(folder: Path, rounds: int, tokens: int) -> None:
    targets: dict[str, Callable[[], AbstractContextManager[Server]]] = {
        name: lambda section=section: node(folder, section)  # type: ignore[misc]
        for name, section in SECTIONS.items()
    }
    targets["mlx_lm.server, two ranks, tensor"] = lambda: launched(folder, "tensor")
    targets["mlx_lm.server, two ranks, pipeline"] = lambda: launched(folder, "pipeline")
    found: dict[str, dict[int, list[str | float]]] = {name: defaultdict(list) for name in targets}
    for number in range(rounds):
        for name, target in targets.items():
            try:
                with target() as server:
                    server.measure(WARM_UP, "warm")
                    for streams in STREAMS:
                        lengths = (tokens, tokens)
                        scenario = Streams(streams=streams, requests=REQUESTS, tokens=lengths)
                        sample = server.measure(scenario, f"{number}")
                        failed = "; ".join(sorted(set(sample.complaints)))
                        figure = failed or sample.figures["throughput"]
                        found[name][streams].append(figure)
                        click.echo(f"{name}, {streams} streams: {shown([figure])}", err=True)
            except BenchmarkError as error:
                click.echo(f"{name}: {error}", err=True)
    click.echo("| tokens/s | " + " | ".join(f"{streams} streams" for streams in STREAMS) + " |")
    click.echo("|---|" + "---:|" * len(STREAMS))
    for name, figures in found.items():
        click.echo(f"| {name} | " + " | ".join(shown(figures[n]) for n in STREAMS) + " |")


def shown(values: list[str | float]) -> str:
    speeds = [value for value in values if isinstance(value, float)]
    return f"{median(speeds):.0f}" if speeds else ", ".join(map(str, values)) or "none"


# --- a step ---


def step(folder: Path) -> None:
    told = run_ranks(folder, "tensor", 2, "costs")
    collectives = ring_times([rows for rows, *_ in told])
    click.echo(
        "| rows | operation, µs CPU | bytes | tokens' collective, µs | model's own, µs each |"
    )
    click.echo("|---:|---:|---:|---:|---:|")
    for rows, seconds, nbytes in told:
        tokens, hidden = collectives[str(rows)]
        click.echo(f"| {rows} | {1e6 * seconds:.1f} | {nbytes:.1f} | {tokens:.0f} | {hidden:.0f} |")


def ring_times(rows: list[int]) -> dict[str, tuple[float, float]]:
    """Return microseconds of a sum of a token a row, and of a hidden state a row, by rows."""
    ports = [ReservedPort(HOST) for _ in range(2)]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.tools.ranks_cost", "ring", "--rank", str(rank)),
                *("--rows", *map(str, rows)),
                *("--addresses", *(port.address for port in ports)),
            ],
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    output, _ = processes[0].communicate()
    processes[1].communicate()
    times: dict[str, tuple[float, float]] = json.loads(output)
    return times


def ring(rank: int, rows: list[int], addresses: list[str]) -> None:
    join_ring(rank, addresses)
    times: dict[int, tuple[float, ...]] = {}
    for count in rows:
        summed = (mx.zeros((count,), dtype=mx.uint32), mx.zeros((count, HIDDEN)))
        times[count] = tuple(median(took(array) for _ in range(CALLS)) for array in summed)
    click.echo(json.dumps(times))


def took(array: mx.array) -> float:
    begun = time.perf_counter()
    mx.eval(mx.distributed.all_sum(array))
    return 1e6 * (time.perf_counter() - begun)


# --- at rest ---


def idle(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = make("pipelined", Path(scratch) / "model")
        sections = {"one": "", "two": "ranks = 2"}
        models = dict.fromkeys(sections, folder)
        with running_node(Path(scratch), models, extra=sections) as running:
            running.wait_until_ready()
            for model in models:
                body: dict[str, Any] = {"model": model, "prompt": "river", "max_tokens": 20}
                running.ask("/v1/completions", body)
            eventually(lambda: len(running.model("two")["ranks"]) == 2)
            entries = running.ask("/admin/processes").json["processes"]
            parts = {
                f"{entry['model']}: {entry['kind']}": psutil.Process(entry["pid"])
                for entry in entries
                if entry["model"]
            }
            before = {part: cpu_of(process) for part, process in parts.items()}
            time.sleep(seconds)
            for part, process in parts.items():
                share = 100 * (cpu_of(process) - before[part]) / seconds
                click.echo(f"{part}: {share:.2f} % of a core")


def cpu_of(process: psutil.Process) -> float:
    """Return seconds of CPU; the kernel's own sum, which is finer than the ticks of `stat`."""
    schedstats = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in schedstats) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description="What several processes of one model cost.")
    parser.add_argument("what", choices=["throughput", "step", "idle", "ring"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model", type=Path, help="another model's folder")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--addresses", nargs="*", default=[])
    given = parser.parse_args()
    if given.what == "ring":
        ring(given.rank, given.rows, given.addresses)
        return
    if given.what == "idle":
        idle(given.seconds)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or make_folder(MODEL, QWEN2, Path(scratch) / "model")
        if given.model is None:
            write_index(folder)
        if given.what == "step":
            step(folder)
        else:
            throughput(folder, given.rounds, given.tokens)


if __name__ == "__main__":
    main()
