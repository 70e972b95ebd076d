"""A node of which some models' folders cannot be used, over HTTP."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_worker.config.schema import ModelConfig
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from tests.front.asking import Front, Serve, model
from tests.supervisor_harness import QUICK, soon

WATCHFUL = replace(QUICK, watch=0.01)


def three(tmp_path: Path) -> tuple[ModelConfig, ...]:
    """A good folder, a missing one, and one with a FIFO in a file's place."""
    fifo = tmp_path / "fifo"
    fifo.mkdir()
    os.mkfifo(fifo / "config.json")
    return (
        model("good"),
        ModelConfig(id="missing", path=str(tmp_path / "late")),
        ModelConfig(id="fifo", path=str(fifo)),
    )


async def reached(front: Front, name: str, state: State) -> None:
    await soon(front.node.named(name).child.reached(state))


async def test_a_node_serves_what_it_has_and_a_folder_that_appears(
    serve: Serve, nano: Path, tmp_path: Path
) -> None:
    front = await serve(models=three(tmp_path), timings=WATCHFUL, wait=False)
    await reached(front, "good", State.READY)
    for name in ("missing", "fifo"):
        await reached(front, name, State.FAILED)
    body = (await front.ask("/health")).json
    assert body["status"] == "degraded"
    assert "late" in body["models"]["missing"]["reason"]
    assert "config.json is a FIFO, not a regular file" in body["models"]["fifo"]["reason"]
    assert "missing: " in body["reason"]
    listed = (await front.ask("/v1/models")).json["data"]
    lengths = {entry["id"]: entry["context_length"] for entry in listed}
    assert set(lengths) == {"good", "missing", "fifo"}
    assert lengths["missing"] is None
    assert (await front.chat("hello", model="good")).text == "hello"
    refused = await front.chat("hello", model="missing")
    assert (refused.status, refused.error["code"]) == (503, "model_failed")

    shutil.copytree(nano, tmp_path / "late")
    await reached(front, "missing", State.READY)
    assert (await front.chat("hello", model="missing")).text == "hello"


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "tokenizer_config.json"])
async def test_no_file_of_a_folder_may_be_a_fifo(
    serve: Serve, nano: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(nano, folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    front = await serve(models=(ModelConfig(id="m", path=str(folder)),), wait=False)
    await reached(front, "m", State.FAILED)
    assert f"{name} is a FIFO" in (await front.model())["reason"]


async def test_retry_after_is_the_time_of_the_next_try(serve: Serve, tmp_path: Path) -> None:
    missing = ModelConfig(id="m", path=str(tmp_path / "none"))
    policy = RestartPolicy(retry_initial=300, retry_max=300)
    front = await serve(models=(missing,), policy=policy, wait=False)
    await reached(front, "m", State.FAILED)
    body = (await front.ask("/health")).json
    entry = body["models"]["m"]
    seconds = (entry["nextTry"] - body["health"]["lastCheck"]) / 1000
    assert 140 < seconds <= 300
    for answer in (await front.chat("hello"), await front.ask("/v1/models")):
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) == pytest.approx(seconds, abs=10)
        assert int(answer.headers["Retry-After"]) >= seconds - 10
    assert "next try in" in entry["reason"]
    assert "none" in body["reason"]


async def test_a_crashed_model_says_how_many_ends_of_how_many(serve: Serve) -> None:
    policy = RestartPolicy(base=3600, ceiling=3600, intensity=6)
    front = await serve("--exit-before-hello", "7", policy=policy, wait=False)
    await reached(front, "m", State.BACKOFF)
    entry = await front.model()
    assert "exit status 7; 1 of 6 ends; next try in" in entry["reason"]
    assert entry["nextTry"] > 0
    answer = await front.chat("hello")
    assert (answer.status, answer.error["code"]) == (503, "model_loading")


async def test_another_protocol_names_the_cure(serve: Serve) -> None:
    front = await serve("--wrong-protocol", wait=False, policy=RestartPolicy(intensity=0))
    await reached(front, "m", State.FAILED)
    assert "restart the node" in (await front.model())["reason"]


# --- what health says ---------------------------------------------------------------------


async def test_one_failed_first_request_leaves_the_node_healthy(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "0")
    assert (await front.chat("hello")).status == 500
    body = (await front.ask("/health")).json
    assert (body["status"], body["reason"]) == ("healthy", "")
    assert (await front.ask("/v1/cluster/health")).status == 200


async def test_failures_are_the_reason_of_a_node_and_of_its_model(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "0")
    for _ in range(5):
        await front.chat("hello")
    body = (await front.ask("/health")).json
    assert body["status"] == "unhealthy"
    assert body["models"]["m"]["reason"] == "the last 5 requests failed"
    assert "the last 5 requests failed" in body["reason"]


async def test_the_cluster_body_of_very_many_models_stays_small(
    serve: Serve, tmp_path: Path
) -> None:
    broken = ModelConfig(id="broken", path=str(tmp_path / ("x" * 200)))
    many = tuple(model(f"a-model-with-a-long-name-{i:03}", preload=False) for i in range(200))
    front = await serve(models=(*many, broken), wait=False)
    await reached(front, "broken", State.FAILED)
    for path in ("/v1/cluster/health", "/v1/cluster/health?brief", "/health?brief"):
        answer = await front.ask(path)
        assert len(answer.body) < 14_000
        assert set(answer.json["models"]["broken"]) == {"status", "state", "reason", "nextTry"}
        assert answer.json["modelsLeftOut"] == 201 - len(answer.json["models"])
    whole = (await front.ask("/health")).json
    assert set(whole["models"]) == {configured.id for configured in (*many, broken)}
    assert whole["models"]["broken"]["restarts"] == 0


async def test_the_cluster_body_of_few_models_is_whole(serve: Serve) -> None:
    front = await serve()
    assert "restarts" in (await front.ask("/v1/cluster/health")).json["models"]["m"]
    assert "restarts" not in (await front.ask("/health?brief")).json["models"]["m"]


async def test_requests_of_removed_models_are_told_from_those_of_others(serve: Serve) -> None:
    front = await serve(models=(model("a"), model("b")))
    for name in ("a", "b", "b"):
        await front.chat("hello", model=name)
    node = front.node
    node.reload([node.models["a"].planned], node.starter.access)
    body = (await front.ask("/health")).json
    assert body["metrics"]["totalRequests"] == 3
    assert body["metrics"]["requestsOfRemovedModels"] == 2
    assert body["models"]["a"]["metrics"]["totalRequests"] == 1


async def test_metrics_say_the_nodes_word(serve: Serve) -> None:
    front = await serve()
    text = (await front.ask("/metrics")).body.decode()
    assert 'mlx_worker_node_status{mlx_worker_node_status="healthy"} 1.0' in text
    front.node.drain.is_active = True
    text = (await front.ask("/metrics")).body.decode()
    assert 'mlx_worker_node_status{mlx_worker_node_status="offline"} 1.0' in text
    assert 'mlx_worker_model_state{mlx_worker_model_state="draining",model="m"} 1.0' in text
