"""The figures of the dashboard: cached tokens, percentiles, prefill, peaks, models given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dashboard.history import HISTORY
from mlx_worker.api.dashboard.report import report
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.front.asking import PROMPT, Front, Serve, asked
from tests.supervisor_harness import Fifo, eventually

if TYPE_CHECKING:
    from pathlib import Path

LONG = " ".join(["word"] * 70)
"""A prompt that is long enough to measure the speed of prefill."""


def report_of(front: Front) -> dict[str, Any]:
    app = front.client.server.app  # type: ignore[attr-defined]
    return report(app[CONTEXT], app[HISTORY].recent)


def model_of(front: Front) -> dict[str, Any]:
    entry: dict[str, Any] = report_of(front)["models"]["m"]
    return entry


async def test_figures_have_the_parts_of_the_cached_share(serve: Serve) -> None:
    front = await serve()
    for _ in range(2):
        await front.chat("one two", system=PROMPT)
    words = len(PROMPT.split())
    expected = {"promptTokens": 2 * (words + 2), "cachedTokens": words}
    assert expected.items() <= model_of(front).items()
    assert expected.items() <= (await front.model())["metrics"].items()
    metrics = (await front.ask("/metrics")).body.decode()
    assert f'mlx_worker_prompt_tokens_total{{model="m"}} {expected["promptTokens"]}.0' in metrics
    assert f'mlx_worker_cached_prompt_tokens_total{{model="m"}} {words}.0' in metrics


async def test_figures_begin_without_a_value(serve: Serve) -> None:
    front = await serve()
    model = model_of(front)
    nothing = {"p50": None, "p95": None, "p99": None}
    assert model["latency"] == {
        "firstToken": nothing,
        "interToken": nothing,
        "endToEnd": nothing,
    }
    assert model["prefillTokensPerSecond"] is None
    assert model["runningPeak"] == 0


async def test_figures_are_of_recent_requests(serve: Serve) -> None:
    front = await serve()
    await front.chat(LONG)
    model = model_of(front)
    for figures in model["latency"].values():
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]
    assert model["prefillTokensPerSecond"] > 0
    for _ in range(60):
        front.history.add_sample()
    model = model_of(front)
    assert model["latency"]["endToEnd"]["p50"] is None
    assert model["prefillTokensPerSecond"] is None
    assert model["firstToken"]["count"] == 1


async def test_figures_short_prompt_says_nothing_of_prefill(serve: Serve) -> None:
    front = await serve()
    await front.chat("one two")
    assert model_of(front)["prefillTokensPerSecond"] is None


async def test_figures_crash_before_the_first_token_says_nothing_of_prefill(
    serve: Serve, tmp_path: Path
) -> None:
    front = await serve("--die-after-tokens", "0", "--once", tmp_path / "once")
    assert (await front.chat(LONG)).status == 200
    assert model_of(front)["prefillTokensPerSecond"] is None


async def test_history_sample_has_the_peak_since_the_last(serve: Serve, pace: Fifo) -> None:
    """A sample that is taken between two bursts shows them all the same."""
    front = await serve("--pace", pace.path)
    asking = [asyncio.ensure_future(front.chat("one")) for _ in range(3)]

    async def all_run() -> bool:
        return bool((await front.model())["running"] == 3)

    await eventually(all_run)
    pace.let(9)
    await asyncio.gather(*asking)
    assert model_of(front)["runningPeak"] == 3
    for _ in range(2):
        front.history.add_sample()
    first, second = (await front.ask("/admin/history")).json["samples"]
    assert (first["models"]["m"]["running"], first["models"]["m"]["runningPeak"]) == (0, 3)
    assert second["models"]["m"]["runningPeak"] == 0


async def test_figures_of_a_model_that_was_given_up(serve: Serve) -> None:
    policy = RestartPolicy(base=0, ceiling=0, intensity=2, retry_initial=600)
    front = await serve("--load-failed", policy=policy, wait=False)
    await front.reaches(state="failed")
    entry = (await front.model())["nextTry"]
    model = model_of(front)
    assert (model["givenUp"], model["deaths"], model["deathsAllowed"]) == (True, 3, 2)
    assert abs(model["nextTryAt"] - entry) < 1000


async def test_figures_of_a_model_that_cannot_load(serve: Serve) -> None:
    front = await serve("--cannot-load", wait=False)
    await front.reaches(state="failed")
    assert (model_of(front)["givenUp"], model_of(front)["deaths"]) == (True, 1)


async def test_figures_of_a_draining_node_say_so(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    assert report_of(front)["draining"] is False
    front.node.drain.is_active = True
    assert report_of(front)["draining"] is True


async def test_figures_stay_of_a_request_of_each_choice(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask("/v1/chat/completions", asked(LONG, n=2))
    assert answer.status == 200
    assert model_of(front)["promptTokens"] == 70
