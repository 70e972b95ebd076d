"""What Prometheus reads: it parses, and it moves as requests say."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dashboard.report import report
from tests.front.asking import PROMPT, Answer, Front, Serve, asked, model
from tests.supervisor_harness import Fifo, eventually, kill_worker, soon

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def key(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def in_openmetrics(answer: Answer) -> list[Metric]:
    return list(openmetrics_families(answer.body.decode()))  # type: ignore[no-untyped-call]


async def scraped(front: Front) -> Samples:
    answer = await front.ask("/metrics")
    assert answer.status == 200
    samples: Samples = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[key(sample.labels)] = sample.value
    return samples


async def value(front: Front, name: str, **labels: str) -> float:
    """A sample; 0 for one that is not there yet."""
    return (await scraped(front)).get(name, {}).get(key(labels), 0)


async def requests(front: Front, outcome: str, dialect: str = "chat", model: str = "m") -> float:
    labels = {"model": model, "dialect": dialect, "outcome": outcome}
    return await value(front, "mlx_worker_requests_total", **labels)


# --- form -----------------------------------------------------------------------------------


async def test_the_text_is_prometheus_own(serve: Serve) -> None:
    front = await serve()
    await front.chat("one two", system=PROMPT)
    answer = await front.ask("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.body.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 30
    assert all(family.documentation for family in families)
    assert all(name.startswith(("mlx_worker_", "vllm:")) for name in names)


async def test_metrics_accept_openmetrics_gets_openmetrics(serve: Serve) -> None:
    front = await serve()
    await front.chat("one two", system=PROMPT)
    answer = await front.ask("/v1/metrics", Accept=OPENMETRICS)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in in_openmetrics(answer)}
    assert families["mlx_worker_model_state"].type == "stateset"
    assert families["mlx_worker_requests"].type == "counter"
    assert families["mlx_worker_time_to_first_token_seconds"].type == "histogram"


@pytest.mark.parametrize("accept", ["*/*", ",;=,", "text/plain; version=x.y", ""])
async def test_any_other_accept_header_gets_the_plain_text(serve: Serve, accept: str) -> None:
    answer = await (await serve()).ask("/metrics", Accept=accept)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(answer.body.decode()))


@pytest.mark.parametrize("version", ["x.y", "99", "1.0.0; escaping=allow-utf-8;q=0.5"])
async def test_metrics_any_openmetrics_version_gets_the_supported_version(
    serve: Serve, version: str
) -> None:
    accept = f"application/openmetrics-text; version={version}, */*;q=0.1"
    answer = await (await serve()).ask("/metrics", Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert in_openmetrics(answer)


# --- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_good_answer_counts_once_with_its_tokens_and_times(
    serve: Serve, stream: bool
) -> None:
    front = await serve()
    assert (await front.chat("one two three", system=PROMPT, stream=stream)).status == 200
    said = await scraped(front)
    of_model = key({"model": "m"})
    assert await requests(front, "success") == 1
    assert said["mlx_worker_prompt_tokens_total"][of_model] == 7
    assert said["mlx_worker_generated_tokens_total"][of_model] == 3
    assert said["mlx_worker_time_to_first_token_seconds_count"][of_model] == 1
    assert said["mlx_worker_inter_token_latency_seconds_count"][of_model] == 2
    assert said["mlx_worker_request_duration_seconds_count"][of_model] == 1
    first = said["mlx_worker_time_to_first_token_seconds_sum"][of_model]
    assert 0 < first < said["mlx_worker_request_duration_seconds_sum"][of_model]
    assert said["mlx_worker_requests_in_flight"][of_model] == 0


async def test_each_dialect_counts_as_itself(serve: Serve) -> None:
    front = await serve()
    turns = [{"role": "user", "content": "hello"}]
    await front.ask("/v1/responses", {"input": "hello"})
    await front.ask("/v1/messages", {"messages": turns, "max_tokens": 5})
    await front.ask("/v1/completions", {"prompt": "hello"})
    for dialect in ("responses", "messages", "completions"):
        assert await requests(front, "success", dialect) == 1


async def test_what_is_wrong_with_a_request_is_its_clients_error(serve: Serve) -> None:
    front = await serve()
    assert (await front.ask("/v1/chat/completions", b"{")).status == 400
    assert (await front.chat("hello", model="nobody")).status == 404
    assert await requests(front, "client_error", model="") == 2
    assert await value(front, "mlx_worker_failures_total", model="m", reason="x") == 0


async def test_a_refusal_is_counted_with_its_reason_and_the_line_is_seen(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1, max_queue=1),))
    first = asyncio.ensure_future(front.chat("one"))
    await front.reaches(running=1)
    second = asyncio.ensure_future(front.chat("two"))
    await front.reaches(queueDepth=1)
    assert (await front.chat("three")).status == 429
    said = await scraped(front)
    of_model = key({"model": "m"})
    assert said["mlx_worker_generations_running"][of_model] == 1
    assert said["mlx_worker_generations_queued"][of_model] == 1
    assert said["mlx_worker_requests_in_flight"][of_model] == 2
    assert said["vllm:num_requests_running"][key({"model_name": "m"})] == 1
    assert said["vllm:num_requests_waiting"][key({"model_name": "m"})] == 1
    assert said["mlx_worker_refusals_total"] == {key({"model": "m", "reason": "queue_full"}): 1}
    pace.let(2)
    await soon(asyncio.gather(first, second))
    assert await requests(front, "success") == 2
    assert await requests(front, "refused") == 1


async def test_a_failure_is_counted_with_its_reason_also_in_mid_stream(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "2")
    await front.chat("one two three", stream=True)
    await front.chat("one two three")
    assert await requests(front, "failed") == 2
    reason = {"model": "m", "reason": "inference_error"}
    assert await value(front, "mlx_worker_failures_total", **reason) == 2


async def test_a_client_that_leaves_is_a_cancelled_request(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    pace.let(1)
    await soon(stream.content.readuntil(b'"one"'))
    stream.close()

    async def cancelled() -> bool:
        return await requests(front, "cancelled") == 1

    await eventually(cancelled)
    said = await scraped(front)
    assert said["mlx_worker_time_to_first_token_seconds_count"][key({"model": "m"})] == 1
    assert said["mlx_worker_request_duration_seconds_count"][key({"model": "m"})] == 0


# --- children -------------------------------------------------------------------------------


async def test_a_crash_is_a_restart_with_its_cause_and_a_resume(
    serve: Serve, tmp_path: Path
) -> None:
    front = await serve("--die-after-tokens", "2", "--once", tmp_path / "once")
    assert (await front.chat("one two three")).text == "one two three"
    said = await scraped(front)
    of_model = key({"model": "m"})
    assert sum(said["mlx_worker_restarts_total"].values()) == 1
    ((labels, _),) = said["mlx_worker_restarts_total"].items()
    assert dict(labels)["cause"] in ("exited", "link_lost")
    assert said["mlx_worker_resumes_total"][of_model] == 1
    assert said["mlx_worker_crash_to_token_seconds_count"][of_model] == 1
    assert said["mlx_worker_crash_to_token_seconds_sum"][of_model] > 0
    assert said["mlx_worker_time_to_first_token_seconds_count"][of_model] == 1


async def test_the_cause_of_a_restart_has_one_name_in_metrics_and_report(
    serve: Serve, tmp_path: Path
) -> None:
    front = await serve("--die-after-tokens", "2", "--once", tmp_path / "once")
    await front.chat("one two three")
    await front.ask("/admin/models/m/restart", method="POST")
    await front.reaches(restarts=2)
    samples = (await scraped(front))["mlx_worker_restarts_total"]
    counted = {dict(labels)["cause"]: count for labels, count in samples.items()}
    context = front.client.server.app[CONTEXT]  # type: ignore[attr-defined]
    shown = report(context, front.history.recent)["models"]["m"]["restartsBy"]
    assert shown == counted
    assert "restart" in counted


async def test_the_state_is_one_of_all(serve: Serve, hold: Fifo) -> None:
    hold.let(1)
    front = await serve("--hold-load", hold.path)

    async def states() -> dict[str, float]:
        said = (await scraped(front))["mlx_worker_model_state"]
        return {dict(labels)["mlx_worker_model_state"]: is_set for labels, is_set in said.items()}

    assert {name for name, is_set in (await states()).items() if is_set} == {"ready"}
    kill_worker((await front.model())["pid"])
    await front.reaches(state="loading")
    now = await states()
    assert len(now) == 9
    assert {name for name, is_set in now.items() if is_set} == {"loading"}
    hold.let(1)
    await front.reaches(state="ready")


async def test_a_restart_that_was_asked_for_is_no_crash(serve: Serve) -> None:
    front = await serve()
    pid = (await front.model())["pid"]
    await front.ask("/admin/models/m/restart", method="POST")

    async def another() -> bool:
        entry = await front.model()
        return bool(entry["state"] == "ready" and entry["pid"] != pid)

    await eventually(another)
    said = await scraped(front)
    assert said["mlx_worker_restarts_total"] == {key({"model": "m", "cause": "restart"}): 1}
    assert said["mlx_worker_stalls_total"][key({"model": "m"})] == 0


# --- cache and memory -----------------------------------------------------------------------


async def test_the_second_request_with_a_system_prompt_hits(serve: Serve) -> None:
    front = await serve()
    await front.chat("one", system=PROMPT)
    await front.chat("two", system=PROMPT)
    said = await scraped(front)
    of_model = key({"model": "m"})
    assert said["mlx_worker_cache_hits_total"][of_model] == 1
    assert sum(said["mlx_worker_cache_misses_total"].values()) == 1
    assert said["mlx_worker_cached_prompt_tokens_total"][of_model] == 4
    by_vllms_name = key({"model_name": "m"})
    for old_and_new in ("gpu_prefix_cache", "prefix_cache"):
        assert said[f"vllm:{old_and_new}_hits_total"][by_vllms_name] == 4
        assert said[f"vllm:{old_and_new}_queries_total"][by_vllms_name] == 10
    assert said["mlx_worker_cache_bytes"][of_model] == 4
    assert said["mlx_worker_cache_limit_bytes"][of_model] == 1 << 20


async def test_memory_is_told_of_every_process(serve: Serve) -> None:
    front = await serve("--resident", str(5 << 20))

    async def measured() -> bool:
        return await value(front, "mlx_worker_device_bytes", model="m") > 0

    await eventually(measured)
    said = await scraped(front)
    processes = said["mlx_worker_process_resident_bytes"]
    assert processes[key({"process": "model", "model": "m"})] == 5 << 20
    assert processes[key({"process": "front", "model": ""})] > 10 << 20
    assert said["mlx_worker_memory_used_bytes"][()] == 5 << 20
    assert said["mlx_worker_memory_limit_bytes"][()] == front.node.budget.limit


async def test_the_lag_of_the_event_loop_is_looked_at(serve: Serve) -> None:
    front = await serve()

    async def seen() -> bool:
        return await value(front, "mlx_worker_event_loop_lag_seconds_count") > 0

    await eventually(seen)


async def test_the_default_models_figures_come_last_for_a_router_that_reads_one(
    serve: Serve,
) -> None:
    front = await serve(models=(model("a", default=True), model("b")))
    text = (await front.ask("/metrics")).body.decode()
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:gpu_cache_usage_perc",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_queries_total",
        "vllm:prefix_cache_queries_total",
    ):
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        assert [line.split('"')[1] for line in lines] == ["b", "a"]
