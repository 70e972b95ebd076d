"""The goals of the node against other servers, and whether it reaches them. Pure.

[bench]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from mlx_worker.bench.statistics import Spread, ratios, spread

if TYPE_CHECKING:
    from mlx_worker.bench.report.results import Results

How: TypeAlias = Literal["ratio", "difference", "itself"]


@dataclass(frozen=True)
class Goal:
    """The node's figure, over or less that of `against`, is to reach `bound`."""

    name: str
    scenario: str
    figure: str
    against: str
    bound: float
    at_least: bool
    how: How = "ratio"
    other: str = ""
    """The other's figure, where it has another name there."""
    of: str = "node"


@dataclass(frozen=True)
class Outcome:
    """A goal and its measured ratios; None if not measured."""

    goal: Goal
    seen: Spread | None

    @property
    def met(self) -> bool | None:
        """Return True if the median meets the goal; None if not measured."""
        if self.seen is None:
            return None
        if self.goal.at_least:
            return self.seen.median >= self.goal.bound
        return self.seen.median <= self.goal.bound


MLX_LM, VLLM, SPARE, DISK = "mlx_lm.server", "vllm-mlx", "node with standby", "node with disk"
DRAFTS, NO_DRAFTS = "node with drafts", "node without drafts"

GOALS = (
    Goal("throughput at 32", "streams-32", "throughput", "limit", 0.90, at_least=True),
    Goal("throughput at 32", "streams-32", "throughput", MLX_LM, 2.0, at_least=True),
    Goal("throughput at 32", "streams-32", "throughput", VLLM, 2.0, at_least=True),
    Goal("throughput at 8", "streams-8", "throughput", "limit", 0.90, at_least=True),
    Goal("throughput at a slow step", "slow-step", "throughput", "limit", 0.98, at_least=True),
    Goal("throughput at 1", "streams-1", "throughput", MLX_LM, 1.0, at_least=True),
    Goal(
        "CPU of the child at 1",
        "streams-1",
        "cpu_child",
        "limit",
        1.1,
        at_least=False,
        other="cpu",
    ),
    Goal("first token p99 at 32", "streams-32", "ttft_p99", MLX_LM, 1 / 20, at_least=False),
    Goal("first token p99 at 32", "streams-32", "ttft_p99", VLLM, 1 / 4, at_least=False),
    Goal("newcomer's first token", "newcomer", "newcomer_p50", MLX_LM, 1 / 10, at_least=False),
    Goal("newcomer's first token", "newcomer", "newcomer_p50", VLLM, 1 / 2, at_least=False),
    Goal("left to idle, streamed", "cancel", "idle_streamed", MLX_LM, 1 / 10, at_least=False),
    Goal("left to idle, whole", "cancel", "idle_whole", MLX_LM, 1 / 10, at_least=False),
    Goal("/health p99", "health", "health_p99", MLX_LM, 1.0, at_least=False),
    Goal("/health p99, ms", "health", "health_p99", "", 5, at_least=False, how="itself"),
    Goal("CPU of the front, µs", "streams-32", "cpu_front", "", 16, at_least=False, how="itself"),
    Goal(
        "CPU of the child beyond the engine, µs",
        "streams-32",
        "cpu_child",
        "limit",
        7,
        at_least=False,
        how="difference",
        other="cpu",
    ),
    Goal(
        "memory of the front, MB",
        "streams-32",
        "resident_front",
        "",
        60,
        at_least=False,
        how="itself",
    ),
    Goal("exec to listening, ms", "start", "listening", "", 500, at_least=False, how="itself"),
    Goal(
        "crash to loaded again with a spare, ms",
        "crash",
        "child_ready",
        "",
        500,
        at_least=False,
        how="itself",
        of=SPARE,
    ),
    *(
        Goal(
            f"{tokens:,} tokens, restarted / new",
            "restart-prefix",
            f"restarted_{tokens}",
            DISK,
            1 / 10,
            at_least=False,
            other=f"cold_{tokens}",
            of=DISK,
        )
        for tokens in (4000, 15_000)
    ),
    Goal(
        "pauses while KV is written, p99",
        "disk-beside",
        "written_p99",
        DISK,
        1.05,
        at_least=False,
        other="unwritten_p99",
        of=DISK,
    ),
    Goal(
        "pauses while KV is read, p99",
        "disk-beside",
        "read_p99",
        DISK,
        1.05,
        at_least=False,
        other="found_p99",
        of=DISK,
    ),
    *(
        Goal(
            f"drafts at {rows}, {trace}",
            f"speculation-{trace}",
            f"throughput_{rows}",
            NO_DRAFTS,
            bound,
            at_least=True,
            of=DRAFTS,
        )
        for trace, bound in (("edit", 1.5), ("json", 1.5), ("prose", 0.97))
        for rows in (1, 4)
    ),
)


def outcomes(results: Results) -> list[Outcome]:
    """Return the outcome of every goal that the results cover, by the median of the rounds."""
    run = results.scenarios()
    return [Outcome(goal, spread(_seen(goal, results))) for goal in GOALS if goal.scenario in run]


def _seen(goal: Goal, results: Results) -> list[float]:
    ours = results.rounds(goal.scenario, goal.of, goal.figure)
    if goal.how == "itself":
        return ours
    theirs = results.rounds(goal.scenario, goal.against, goal.other or goal.figure)
    if len(ours) != len(theirs):
        return []
    if goal.how == "difference":
        return [a - b for a, b in zip(ours, theirs, strict=True)]
    return ratios(ours, theirs)
