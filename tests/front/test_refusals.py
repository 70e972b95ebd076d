"""Work that the node does not take now, and when to come back."""

import asyncio
from dataclasses import replace

from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.front.asking import PROMPT, Answer, Serve, asked, model
from tests.supervisor_harness import PATIENT, QUICK, Fifo, alive, soon


async def test_work_for_a_model_that_loads_is_to_come_back(serve: Serve) -> None:
    front = await serve("--hang-in-load", wait=False)
    await front.reaches(state="loading")
    answer = await front.chat("hello")
    assert answer.status == 503
    assert answer.error["code"] == "model_loading"
    assert 0 < int(answer.headers["Retry-After"]) <= 5


async def test_work_for_a_model_that_loads_may_wait_and_is_then_to_come_back(serve: Serve) -> None:
    front = await serve("--hang-in-load", resume=replace(PATIENT, load_wait=0.1), wait=False)
    for stream in (True, False):
        answer = await front.chat("hello", stream=stream)
        assert (answer.status, answer.error["code"]) == (503, "model_loading")
        assert 0 < int(answer.headers["Retry-After"]) <= 5
    health = (await front.ask("/health")).json
    assert (health["metrics"]["totalRequests"], health["health"]["errorRate"]) == (0, 0)


async def test_model_on_demand_first_request_that_may_wait_is_answered(
    serve: Serve,
) -> None:
    resume = replace(PATIENT, load_wait=60)
    front = await serve(models=(model(preload=False),), resume=resume)
    assert (await front.chat("hello")).text == "hello"


async def test_a_client_that_leaves_while_it_waits_for_a_model_frees_its_place(
    serve: Serve,
) -> None:
    front = await serve("--hang-in-load", resume=replace(PATIENT, load_wait=60), wait=False)
    asking = asyncio.ensure_future(front.chat("hello"))
    await front.reaches(running=1)
    asking.cancel()
    await asyncio.wait({asking})
    await front.reaches(running=0)


async def test_the_first_request_for_a_model_on_demand_starts_it(serve: Serve) -> None:
    front = await serve(models=(model(preload=False),))
    answer = await front.chat("hello")
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    await front.reaches(state="ready")
    assert (await front.chat("hello")).text == "hello"


async def test_a_full_queue_is_a_429_to_come_back_from(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1, max_queue=1),))
    first = asyncio.ensure_future(front.chat("one"))
    await front.reaches(running=1)
    second = asyncio.ensure_future(front.chat("two"))
    await front.reaches(queueDepth=1)
    answer = await front.chat("three")
    assert answer.status == 429
    assert (answer.error["type"], answer.error["code"]) == ("rate_limit_error", "queue_full")
    assert int(answer.headers["Retry-After"]) > 0
    pace.let(2)
    assert ((await soon(first)).text, (await soon(second)).text) == ("one", "two")


async def test_a_draining_node_finishes_what_runs_and_refuses_the_rest(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, timings=replace(QUICK, drain=3600))
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    stopping = asyncio.ensure_future(front.node.stop())
    await front.reaches(state="draining")
    for path, body in (
        ("/v1/chat/completions", asked("late")),
        ("/v1/cluster/cache/warm", {"systemPrompt": PROMPT}),
        ("/v1/models", None),
    ):
        answer = await front.ask(path, body)
        assert (answer.status, answer.error["code"]) == (503, "node_draining")
        assert int(answer.headers["Retry-After"]) > 0
    assert (await front.ask("/v1/cluster/health")).status == 503
    assert (await front.ask("/health/ready")).status == 503
    assert (await front.ask("/health")).status == 200
    assert (await front.ask("/health/live")).status == 200
    pace.let(2)
    said = await soon(stream.read())
    assert Answer(200, stream.headers, said).text == "one two"
    assert said.endswith(b"data: [DONE]\n\n")
    await soon(stopping)


async def test_a_stopped_front_leaves_no_process(serve: Serve) -> None:
    front = await serve(models=(model("a"), model("b")))
    pids = [(await front.model(name))["pid"] for name in ("a", "b")]
    assert all(alive(pid) for pid in pids)
    await soon(front.client.close())
    assert not any(alive(pid) for pid in pids)


async def test_a_given_up_model_is_not_asked_for_again_and_again(serve: Serve) -> None:
    front = await serve("--exit-before-hello", "7", policy=RestartPolicy(intensity=0), wait=False)
    await front.reaches(state="failed")
    for _ in range(3):
        answer = await front.chat("hello")
        assert (answer.status, answer.error["code"]) == (503, "model_failed")
    entry = await front.model()
    assert (entry["state"], entry["restarts"]) == ("failed", 0)
