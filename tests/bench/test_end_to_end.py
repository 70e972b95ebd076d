"""Every family of scenarios against a real node and a real mlx_lm.server, with small counts.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from mlx_worker.bench.client import LoadClient, LoadRequest
from mlx_worker.bench.interleave import Plan, measured
from mlx_worker.bench.report.results import Results
from mlx_worker.bench.scenarios.agent import Agent
from mlx_worker.bench.scenarios.cached_prompts import CachedPrompts
from mlx_worker.bench.scenarios.cancel import CancelledStreams
from mlx_worker.bench.scenarios.crash import Crash
from mlx_worker.bench.scenarios.disk_beside import DiskBeside
from mlx_worker.bench.scenarios.health import Health
from mlx_worker.bench.scenarios.late_arrival import LateArrivals
from mlx_worker.bench.scenarios.long_prompt import LongPrompt
from mlx_worker.bench.scenarios.many_models import ManyModels
from mlx_worker.bench.scenarios.prefix import Prefix
from mlx_worker.bench.scenarios.restart_prefix import RestartPrefix
from mlx_worker.bench.scenarios.sessions import Sessions
from mlx_worker.bench.scenarios.speculation import SpeculationGain, Trace
from mlx_worker.bench.scenarios.start import Start
from mlx_worker.bench.scenarios.streams import Streams
from mlx_worker.bench.scenarios.two_models import TwoModels
from mlx_worker.bench.servers.baseline import Baseline
from mlx_worker.bench.servers.node import RunningNode, StartedNode
from mlx_worker.bench.servers.peer import Peer
from mlx_worker.errors import BenchmarkError
from tests.processes import COMMAND, DEADLINE, eventually, has_ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlx_worker.bench.sample import Sample
    from mlx_worker.bench.scenarios.catalog import AnyScenario
    from mlx_worker.bench.servers.server import Server
    from tests.processes import RunningNode as Node

pytestmark = pytest.mark.peers


STREAMS = Streams(streams=3, requests=2, tokens=(5, 5))
MIXED = Streams(streams=3, requests=2, words=(4, 40), tokens=(3, 9))
PAUSES = {f"{when}_{what}" for when in ("before", "during", "after") for what in ("p50", "max")}


@pytest.fixture(scope="module")
def servers(nano: Path) -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        node = stack.enter_context(StartedNode().opened([nano, nano]))
        peer = stack.enter_context(Peer("mlx_lm.server").opened([nano]))
        yield {"node": node, "mlx_lm.server": peer}


@pytest.fixture(params=["node", "mlx_lm.server"])
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


def sound(server: Server, scenario: AnyScenario) -> Sample:
    """Measured, with nothing to complain of."""
    sample = server.measure(scenario, os.urandom(8).hex())
    assert sample.complaints == []
    assert all(value >= 0 for value in sample.figures.values())
    return sample


async def test_the_tokens_counted_are_those_asked_for(server: Server) -> None:
    client = LoadClient(server.host, server.port, server.models[0])
    ask = LoadRequest([{"role": "user", "content": "once there was a cat"}], 7)
    streamed = await client.ask(ask)
    whole = await client.ask(LoadRequest(ask.messages, 7, stream=False))
    assert (streamed.complete, streamed.complaint) == (True, "")
    assert streamed.completion_tokens == whole.completion_tokens == 7
    assert streamed.text == whole.text
    assert 1 <= len(streamed.texts) <= 7
    assert streamed.sent < streamed.texts[0] <= streamed.texts[-1] <= streamed.ended


def test_streams_have_speed_pauses_and_cost(server: Server) -> None:
    sample = sound(server, STREAMS)
    assert sample.figures["tokens"] == 3 * 2 * 5
    assert {"throughput", "ttft_p50", "ttft_p99", "cpu", "resident"} <= set(sample.figures)
    # None at all, where every answer came in one piece.
    assert len(sample.gaps) in (0, 101)
    assert sample.gaps == sorted(sample.gaps)


def test_a_node_s_cost_is_split_between_its_processes(servers: dict[str, Server]) -> None:
    figures = sound(servers["node"], STREAMS).figures
    for figure in ("cpu", "resident"):
        parts = figures[f"{figure}_front"] + figures[f"{figure}_child"]
        assert figures[figure] == pytest.approx(parts)
    assert "cpu_server" not in sound(servers["mlx_lm.server"], STREAMS).figures


def test_the_limit_writes_as_many_tokens(nano: Path, servers: dict[str, Server]) -> None:
    with Baseline().opened([nano]) as limit:
        alone = limit.measure(MIXED, "seed")
    assert alone.figures["tokens"] == servers["node"].measure(MIXED, "seed").figures["tokens"]
    assert {"throughput", "cpu", "resident"} <= set(alone.figures)


def test_a_prefix_that_was_seen_comes_from_the_cache(server: Server) -> None:
    figures = sound(server, Prefix(words=200, tokens=2)).figures
    assert figures["cached_share"] > 80
    assert figures["prompt_tokens"] > 200
    assert {"cold", "warm", "gain"} <= set(figures)


def test_an_agent_s_history_comes_from_the_cache(server: Server) -> None:
    figures = sound(server, Agent(turns=4, system=200, result=10, tokens=4)).figures
    assert figures["cached_share"] >= figures["cached_share_min"] > 80
    assert {"first_turn", "turn_p50", "turn_max"} <= set(figures)


def test_a_long_prompt_among_streams_has_three_stretches(server: Server) -> None:
    figures = sound(server, LongPrompt(streams=2, words=300, stretch=10)).figures
    assert set(figures) >= PAUSES
    assert figures["prompt_tokens"] > 300


def test_newcomers_are_answered_among_streams(server: Server) -> None:
    figures = sound(server, LateArrivals(streams=2, arrivals=2, tokens=2)).figures
    assert figures["newcomer_p50"] <= figures["newcomer_p99"]


def test_health_is_asked_under_streams(server: Server) -> None:
    figures = sound(server, Health(streams=2, questions=5)).figures
    assert figures["health_p50"] <= figures["health_p99"]


def test_a_server_comes_to_rest_after_its_client_has_left(server: Server) -> None:
    assert set(sound(server, CancelledStreams()).figures) == {"idle_streamed", "idle_whole"}


def test_two_models_answer_at_once(servers: dict[str, Server]) -> None:
    figures = sound(servers["node"], TwoModels(streams=2, requests=1, tokens=5)).figures
    assert figures["tokens"] == 2 * 2 * 5
    assert figures["throughput_one"] > 0


def test_many_models_share_streams_and_are_all_in_health(nano: Path) -> None:
    with StartedNode().opened([nano, nano]) as server:
        figures = sound(server, ManyModels(streams=3, requests=1, tokens=5, questions=2)).figures
    assert figures["tokens"] == 3 * 5
    assert figures["health_bytes"] > 1000
    assert {"cpu_front", "resident_child", "ready", "health_p50"} <= set(figures)


def test_sessions_come_and_requests_of_any_of_them_are_measured(
    servers: dict[str, Server],
) -> None:
    scenario = Sessions(before=2, sessions=6, requests=8, questions=2)
    figures = sound(servers["node"], scenario).figures
    assert {"cpu_request_front", "resident_front", "health_bytes"} <= set(figures)


async def test_prompts_are_cached_as_many_as_are_asked_for(servers: dict[str, Server]) -> None:
    server = servers["node"]
    first = sound(server, CachedPrompts(before=0, prompts=3, words=20)).figures
    sound(server, CachedPrompts(before=3, prompts=5, words=20))
    _, body = await LoadClient(server.host, server.port, "").get("/cache")
    entries = msgspec.json.decode(body)["models"]["bench-0"]["entries"]
    # The few tokens that all of them begin with are not worth an entry of their own.
    assert entries == 5
    assert {"cold", "warm", "resident_child"} <= set(first)


@pytest.mark.parametrize("spares", [0, 1])
def test_a_killed_child_s_streams_are_resumed_or_told_as_lost(nano: Path, spares: int) -> None:
    with StartedNode(spares=spares).opened([nano]) as server:
        sample = server.measure(Crash(streams=2, tokens=1500, after=4, kills=1), "seed")
    lost = sample.figures["lost"]
    assert lost in (0, 1, 2)
    assert len(sample.complaints) == lost
    assert all(complaint.startswith("stream lost: ") for complaint in sample.complaints)
    assert ("resumed_max" in sample.figures) == (lost < 2)
    parts = sum(sample.figures[part] for part in ("detect", "spawn", "load", "prefill"))
    assert 0 < parts <= sample.figures["resumed_max"]


def test_a_start_is_measured_and_nothing_of_it_is_left(nano: Path) -> None:
    with StartedNode().opened([nano]) as server:
        figures = sound(server, Start(tokens=2)).figures
        pids = [pid for group in server.roles().values() for pid in group]
        assert len(pids) >= 2
    assert figures["listening"] <= figures["ready"]
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    "scenario",
    [
        RestartPrefix(tokens=(600,), warm_up=20, answer=2),
        DiskBeside(streams=2, entries=3, batch=2, words=300, stretch=10),
    ],
)
def test_what_is_on_disk_is_used_in_the_second_life(nano: Path, scenario: AnyScenario) -> None:
    target = StartedNode(has_disk=True)
    plan = Plan({"disk": scenario}, [target], 1, "seed", lambda _: nano)
    (measurement,) = measured(plan)
    assert measurement.sample.complaints == []
    figures = measurement.sample.figures
    if isinstance(scenario, RestartPrefix):
        assert figures["restarted_share_600"] > 80
        assert {"cold_600", "memory_600", "gain_restarted_600", "gain_memory_600"} <= set(figures)
    else:
        parts = ("alone", "written", "unwritten", "read", "found")
        assert {f"{part}_p99" for part in parts} <= set(figures)


def test_drafts_are_measured_against_none_for_each_trace(nano: Path) -> None:
    traces: list[Trace] = ["edit", "json", "prose"]
    scenarios: dict[str, AnyScenario] = {
        trace: SpeculationGain(trace=trace, rows=(1, 2), requests=1, tokens=24) for trace in traces
    }
    targets = [StartedNode(speculation="on"), StartedNode(speculation="off")]
    measurements = list(measured(Plan(scenarios, targets, 1, "seed", lambda _: nano)))
    assert [item.target for item in measurements] == 3 * [target.name for target in targets]
    for measurement in measurements:
        assert measurement.sample.complaints == []
        assert measurement.sample.figures["tokens"] == 3 * 24
        assert measurement.sample.figures["throughput_2"] > 0


def test_a_node_that_runs_already_is_measured_and_left_running(node: Node, tiny: Path) -> None:
    with RunningNode(node.url).opened([tiny]) as server:
        figures = sound(server, STREAMS).figures
    assert figures["tokens"] == 3 * 2 * 5
    assert {"cpu_front", "cpu_child"} <= set(figures)
    assert node.ask("/health").json["status"] == "healthy"


def test_a_node_that_is_not_there_is_not_measured(tiny: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match="no node answers there"),
        RunningNode("http://127.0.0.1:9").opened([tiny]),
    ):
        pytest.fail("nobody listens on port 9")


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match="Model not found"),
        StartedNode().opened([tmp_path / "nowhere"]),
    ):
        pytest.fail("there is no model to serve")


def test_the_command_prints_a_table_and_the_goals_and_writes_the_samples(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    arguments = ["--scenario", "streams-1", "--rounds", "1", "--json", str(file)]
    done = subprocess.run(
        [*COMMAND, "bench", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "node / limit" in done.stdout
    assert "not measured" in done.stdout
    results = msgspec.json.decode(file.read_bytes(), type=Results)
    assert [measurement.target for measurement in results.measurements] == ["node", "limit"]
    assert {measurement.sample.figures["tokens"] for measurement in results.measurements} == {
        16 * 64
    }


def test_sigterm_ends_everything_that_was_started() -> None:
    command = [*COMMAND, "bench", "--scenario", "streams-1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as bench:
        assert bench.stderr is not None
        assert bench.stderr.readline().startswith(b"streams-1: node, round 1 of 3")
        below = psutil.Process(bench.pid).children(recursive=True)
        assert len(below) >= 2
        bench.terminate()
        assert bench.wait(DEADLINE) == 143
    eventually(lambda: all(has_ended(process) for process in below))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenario", "nonsense"], "no scenario 'nonsense'; there are streams-1, "),
        (["--peer", "nonsense"], "no peer 'nonsense'; there are mlx_lm.server, vllm-mlx"),
        (["--url", "http://127.0.0.1:9", "--peer", "mlx_lm.server"], "needs --model"),
        (["--url", "nonsense"], "a node's address begins with http://"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_worker", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 69
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
