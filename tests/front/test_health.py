"""What routers and operators read of a node's health."""

import time
from pathlib import Path

import orjson
import pytest

from mlx_worker.api.admin import reports
from mlx_worker.api.context import CONTEXT
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
from mlx_worker.supervisor.process.states import State
from tests.front.asking import DIGEST, PROMPT, Serve, asked, model
from tests.supervisor_harness import Fifo, alive, eventually, kill_worker, soon


@pytest.mark.parametrize("path", ["/health", "/v1/cluster/health"])
async def test_health_has_the_keys_and_types_that_its_callers_read(serve: Serve, path: str) -> None:
    front = await serve()
    before = time.time() * 1000
    body = (await front.ask(path)).json
    parts = {"status", "reason", "version", "uptime", "addresses", "health", "cache", "metrics"}
    assert set(body) == parts | {"standby", "memory", "models"}
    assert set(body["memory"]) == {"usedBytes", "limitBytes", "pressure"}
    assert body["status"] == "healthy"
    for part in (body, body["models"]["m"]):
        health, cache, metrics = part["health"], part["cache"], part["metrics"]
        assert before <= health["lastCheck"] <= time.time() * 1000
        assert isinstance(health["lastCheck"], float)
        assert (health["consecutiveFailures"], health["errorRate"]) == (0, 0)
        assert health["avgResponseTime"] == 0
        assert (cache["tokens"], cache["systemPromptHash"], cache["warmed"]) == (0, "", False)
        assert cache["lastUpdated"] == 0
        assert (metrics["requestsInFlight"], metrics["totalRequests"]) == (0, 0)
        assert (metrics["cacheHitRate"], metrics["avgLatency"]) == (0, 0)
    entry = body["models"]["m"]
    assert (entry["status"], entry["state"], entry["restarts"]) == ("healthy", "ready", 0)
    assert entry["queueDepth"] == 0
    assert alive(entry["pid"])
    assert entry["contextLength"] == 4096
    assert entry["memory"]["weightBytes"] == 123_456
    assert entry["memory"]["kv"] == {"fixedBytes": 0, "perToken": []}
    assert isinstance(entry["loadSeconds"], float), "0.0 for a worker that loads at once"


async def test_health_counts_what_was_served(serve: Serve) -> None:
    front = await serve()
    for _ in range(3):
        await front.chat("hello", system=PROMPT)
    body = (await front.ask("/health")).json
    for part in (body, body["models"]["m"]):
        metrics = part["metrics"]
        assert (metrics["requestsInFlight"], metrics["totalRequests"]) == (0, 3)
        assert metrics["cacheHitRate"] == pytest.approx(2 / 3)
        assert metrics["avgLatency"] > 0
        assert part["health"]["avgResponseTime"] == metrics["avgLatency"]
        assert part["cache"]["systemPromptHash"] == DIGEST


async def test_health_says_what_is_in_flight(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open("/v1/chat/completions", asked("hello", stream=True)))
    body = (await front.ask("/health")).json
    assert body["metrics"]["requestsInFlight"] == 1
    assert body["models"]["m"]["metrics"]["requestsInFlight"] == 1
    assert body["models"]["m"]["running"] == 1
    pace.let(1)
    await soon(stream.read())
    assert (await front.model())["metrics"]["requestsInFlight"] == 0


async def test_the_health_of_many_models_stays_small(serve: Serve) -> None:
    models = tuple(model(f"a-model-with-a-long-name-{i}", preload=False) for i in range(10))
    front = await serve(models=models)
    assert len((await front.ask("/v1/cluster/health")).body) < 14_000


async def test_a_node_that_still_loads_is_initializing_and_not_yet_to_be_asked(
    serve: Serve, hold: Fifo
) -> None:
    front = await serve("--hold-load", hold.path, wait=False)
    await front.reaches(state="loading", loading={"done": 61_728, "total": 123_456})
    health, cluster = await front.ask("/health"), await front.ask("/v1/cluster/health")
    assert (health.status, health.json["status"]) == (200, "initializing")
    assert (cluster.status, cluster.json["status"]) == (503, "initializing")
    assert health.json["models"]["m"]["status"] == "initializing"
    assert (await front.ask("/health/live")).status == 200
    assert (await front.ask("/health/ready")).status == 503
    hold.let(1)
    await front.reaches(state="ready")
    assert (await front.ask("/v1/cluster/health")).status == 200
    assert (await front.ask("/health/ready")).status == 200


async def test_a_model_that_waits_for_its_first_request_can_serve(serve: Serve) -> None:
    front = await serve(models=(model(preload=False),))
    assert (await front.model())["status"] == "offline"
    assert (await front.ask("/v1/cluster/health")).status == 200
    assert (await front.ask("/health/ready")).status == 200


async def test_some_models_down_is_degraded_and_still_serves(serve: Serve, tmp_path: Path) -> None:
    models = (model("a"), model("b"))
    front = await serve("--cannot-load", "--once", tmp_path / "x", models=models, wait=False)
    states = (State.READY, State.FAILED)
    ends = [await soon(served.child.reached(*states)) for served in front.node.models.values()]
    assert sorted(ends) == [State.FAILED, State.READY]
    body = (await front.ask("/health")).json
    assert body["status"] == "degraded"
    assert sorted(entry["status"] for entry in body["models"].values()) == ["healthy", "unhealthy"]
    assert (await front.ask("/v1/cluster/health")).status == 200
    assert (await front.ask("/v1/models")).status == 200


async def test_a_node_whose_models_are_all_given_up_says_so_everywhere(serve: Serve) -> None:
    front = await serve("--cannot-load", wait=False)
    await front.reaches(state="failed")
    health = await front.ask("/health")
    assert (health.status, health.json["status"]) == (200, "unhealthy")
    assert "so it was written" in health.json["models"]["m"]["reason"]
    assert (await front.ask("/v1/cluster/health")).status == 503
    for answer in (await front.ask("/v1/models"), await front.chat("hello")):
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "so it was written" in answer.error["message"]
    assert (await front.ask("/health/live")).status == 200


async def test_health_two_failures_in_a_row_is_degraded_until_a_success(
    serve: Serve,
) -> None:
    front = await serve("--fail-after-tokens", "2")
    words = []
    for text in ("good", "good", "good", "it fails here", "it fails here", "good"):
        assert (await front.chat(text)).status == (200 if text == "good" else 500)
        words.append((await front.ask("/health")).json["status"])
        assert (await front.ask("/v1/cluster/health")).status == 200
    assert words == ["healthy", "healthy", "healthy", "healthy", "degraded", "healthy"]


async def test_five_failures_in_a_row_are_unhealthy_and_503_to_a_router(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "0")
    for count in range(1, 6):
        answer = await front.chat("hello")
        assert (answer.status, answer.error["code"]) == (500, "inference_error")
        health = (await front.ask("/health")).json["health"]
        assert (health["consecutiveFailures"], health["errorRate"]) == (count, 1)
    assert (await front.ask("/health")).json["status"] == "unhealthy"
    assert (await front.ask("/v1/cluster/health")).status == 503


async def test_refusals_are_no_failures_of_the_node(serve: Serve) -> None:
    front = await serve("--refuse")
    for _ in range(6):
        assert (await front.chat("hello")).status == 400
        assert (await front.ask("/v1/chat/completions", b"{")).status == 400
    body = (await front.ask("/health")).json
    assert (body["status"], body["health"]["consecutiveFailures"]) == ("healthy", 0)


async def test_models_killed_child_stays_listed_and_gets_a_new_pid(
    serve: Serve, hold: Fifo
) -> None:
    hold.let(1)
    front = await serve("--hold-load", hold.path)
    pid = (await front.model())["pid"]
    kill_worker(pid)
    await front.reaches(state="loading")
    assert (await front.ask("/v1/models")).status == 200
    assert (await front.ask("/v1/cluster/health")).status == 503
    entry = await front.model()
    assert (entry["status"], entry["restarts"]) == ("unhealthy", 1)
    assert "SIGKILL" in entry["reason"]
    hold.let(1)
    await front.reaches(state="ready")
    assert (await front.model())["pid"] != pid
    assert (await front.ask("/v1/cluster/health")).status == 200


async def test_a_spare_child_is_shown_and_is_no_model(serve: Serve) -> None:
    front = await serve(standby=StandbyPolicy(spares=1, calm=0, ping=0.02))

    async def waiting() -> bool:
        return len((await front.ask("/health")).json["standby"]["waiting"]) == 1

    await eventually(waiting)
    body = (await front.ask("/health")).json
    assert body["standby"]["wanted"] == 1
    (spare,) = body["standby"]["waiting"]
    assert list(body["models"]) == ["m"]
    assert body["models"]["m"]["pid"] != spare
    assert alive(spare)


async def test_health_needs_no_help_from_the_slower_writer(serve: Serve) -> None:
    # A key that is no plain text, an enumeration's member too, would be written by msgspec.
    front = await serve()
    app = front.client.server.app  # type: ignore[attr-defined]
    assert b'"enteredAt":{"starting":' in orjson.dumps(reports.health(app[CONTEXT]))
