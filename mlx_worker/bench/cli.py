"""The command `mlx-worker bench`: measure, print, write files.

[bench]
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from mlx_worker.bench.ending import ended_by_sigterm
from mlx_worker.bench.interleave import Measurement, Plan, measured
from mlx_worker.bench.report.charts import draw, load_matplotlib
from mlx_worker.bench.report.goals import outcomes
from mlx_worker.bench.report.results import Results, this_machine
from mlx_worker.bench.report.tables import goal_table, scenario_table
from mlx_worker.bench.scenarios.catalog import NAMED
from mlx_worker.bench.servers.baseline import Baseline
from mlx_worker.bench.servers.node import RunningNode, StartedNode
from mlx_worker.bench.servers.peer import PEERS, Peer
from mlx_worker.bench.synthetic.on_demand import models
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_worker.bench.servers.target import Target

WIDTH = 160
"""Columns of a table that goes into a file."""


@dataclass(frozen=True)
class BenchOptions:
    """The options of the command.

    No `scenarios`: all; no `model`: synthetic ones; no `url`: a new node.
    """

    model: Path | None
    url: str | None
    peers: Sequence[str]
    scenarios: Sequence[str]
    rounds: int
    json: Path | None
    plots: Path | None


def run(options: BenchOptions) -> None:
    """Measure and print. Raises BenchmarkError where something asked for is not to be had."""
    unknown = [item for item in options.scenarios if item not in NAMED]
    if unknown:
        raise BenchmarkError(f"no scenario {unknown[0]!r}; there are {', '.join(NAMED)}")
    if options.plots is not None:
        load_matplotlib()  # before an hour of work
    with ended_by_sigterm(), models(options.model) as model:
        plan = Plan(
            scenarios={name: NAMED[name] for name in options.scenarios or NAMED},
            targets=_targets(options),
            rounds=options.rounds,
            seed=secrets.token_hex(8),
            model=model,
        )
        measurements = []
        for item in measured(plan):
            _print_progress(item, plan)
            measurements.append(item)
    results = Results(
        machine=this_machine(),
        command=sys.argv[1:],
        model=str(options.model or "made"),
        seed=plan.seed,
        measurements=measurements,
    )
    screen = Console(width=None if sys.stdout.isatty() else WIDTH)
    for scenario in results.scenarios():
        screen.print(scenario_table(results, scenario))
    if options.model is None and options.url is None and (reached := outcomes(results)):
        screen.print(goal_table(reached))  # the goals are for the synthetic models
    if options.json is not None:
        results.write(options.json)
    if options.plots is not None:
        for file in draw(results, options.plots):
            screen.print(f"drawn: {file}")


def _targets(options: BenchOptions) -> list[Target]:
    """Return what is measured; the node is first, because the others are compared with it."""
    if options.url is None:
        nodes = [
            StartedNode(),
            StartedNode(spares=1),
            StartedNode(has_disk=True),
            StartedNode(speculation="on"),
            StartedNode(speculation="off"),
        ]
        return [*nodes, *map(_peer, options.peers), Baseline()]
    if options.model is None and options.peers:
        raise BenchmarkError("--url with --peer needs --model: the folder of what the node serves")
    beside: list[Target] = [] if options.model is None else [*map(_peer, options.peers), Baseline()]
    return [RunningNode(options.url), *beside]


def _peer(name: str) -> Peer:
    if name not in PEERS:
        raise BenchmarkError(f"no peer {name!r}; there are {', '.join(PEERS)}")
    return Peer(name)


def _print_progress(measurement: Measurement, plan: Plan) -> None:
    """Print one line of progress."""
    position = f"round {measurement.round + 1} of {plan.rounds}"
    what = f"{measurement.scenario}: {measurement.target}, {position}"
    how = f" ({measurement.sample.complaints[0]})" if measurement.sample.complaints else ""
    sys.stderr.write(f"{what}{how}\n")
