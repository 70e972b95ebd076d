"""What callers hear when memory, time or places do not suffice: status, body and Retry-After."""

import asyncio
from dataclasses import replace
from pathlib import Path

from msgspec.structs import replace as with_

from mlx_worker.config.schema import ServerConfig, SupervisorConfig
from mlx_worker.config.sizes import MemoryLimit
from mlx_worker.supervisor.memory.policy import PROCESS_BYTES
from mlx_worker.supervisor.process.states import State
from tests.front.asking import PROMPT, Answer, Serve, asked, model
from tests.supervisor_harness import PATIENT, QUICK, Fifo, eventually, soon

MB = 1 << 20
ONE = PROCESS_BYTES + 8 * MB
"""What one scripted model takes here."""
NODE = SupervisorConfig()


def limited(nbytes: int) -> SupervisorConfig:
    return with_(NODE, memory_limit=MemoryLimit(nbytes))


def of_size(*flags: str) -> tuple[str, ...]:
    return ("--resident", str(ONE), *flags)


async def test_a_model_that_does_not_fit_now_is_a_503_with_the_numbers(serve: Serve) -> None:
    models = (model("a", pin=True), model("b", preload=False))
    front = await serve(*of_size(), models=models, supervisor=limited(ONE))
    for body in (asked("hello", model="b"), asked("hello", model="b", stream=True)):
        answer = await front.ask("/v1/chat/completions", body)
        assert (answer.status, answer.error["code"]) == (503, "memory_full")
        assert "MB of" in answer.error["message"]
        assert int(answer.headers["Retry-After"]) > 0
    entry = await front.model("b")
    assert (entry["state"], entry["health"]["errorRate"]) == ("stopped", 0)
    assert "does not fit in memory" in entry["reason"]
    assert (await front.chat("hello", model="a")).text == "hello"


async def test_memory_request_that_waits_for_room_in_vain_is_refused(serve: Serve) -> None:
    models = (model("a", pin=True), model("b", preload=False))
    resume = replace(PATIENT, load_wait=0.1)
    front = await serve(*of_size(), models=models, supervisor=limited(ONE), resume=resume)
    answer = await front.chat("hello", model="b")
    assert (answer.status, answer.error["code"]) == (503, "memory_full")
    assert int(answer.headers["Retry-After"]) > 0


async def test_an_idle_model_makes_room_and_the_client_sees_a_pause(serve: Serve) -> None:
    models = (model("a"), model("b", preload=False))
    resume = replace(PATIENT, load_wait=60)
    front = await serve(*of_size(), models=models, supervisor=limited(ONE), resume=resume)
    assert (await front.chat("hello", model="b")).text == "hello"
    assert (await front.model("a"))["state"] == "stopped"
    assert (await front.chat("here again", model="a")).text == "here again"


async def test_models_take_no_more_than_the_device_recommends(serve: Serve) -> None:
    front = await serve(
        *of_size("--working-set", str(2 * ONE)), models=(model("a"),), supervisor=limited(9 * ONE)
    )
    await front.reaches("a", state="ready")
    memory = (await front.ask("/health")).json["memory"]
    assert memory["limitBytes"] == 2 * ONE
    assert front.node.budget.limit == 2 * ONE
    assert 0 < front.node.models["a"].load.kv_bytes < 2 * ONE


async def test_a_device_with_more_memory_than_the_limit_changes_nothing(serve: Serve) -> None:
    front = await serve(
        *of_size("--working-set", str(9 * ONE)), models=(model("a"),), supervisor=limited(2 * ONE)
    )
    await front.reaches("a", state="ready")
    assert front.node.budget.limit == 2 * ONE


async def test_a_model_that_never_fits_is_not_to_be_asked_for_again(serve: Serve) -> None:
    front = await serve(models=(model(preload=False),), supervisor=limited(ONE // 2), wait=False)
    answer = await front.chat("hello")
    assert (answer.status, answer.error["code"]) == (503, "model_too_large")
    assert "memory_limit" in answer.error["message"]
    assert "Retry-After" not in answer.headers
    assert answer.headers["X-Should-Retry"] == "false"


async def test_under_pressure_new_work_is_a_503_with_the_numbers(serve: Serve, pace: Fifo) -> None:
    flags = of_size("--grow", str(16 * MB), "--never-shrink", "--pace", str(pace.path))
    front = await serve(
        *flags, supervisor=limited(ONE + 8 * MB), timings=replace(QUICK, drain=3600)
    )
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))

    async def pressed() -> bool:
        pressure = (await front.ask("/health")).json["memory"]["pressure"]
        return pressure in ("refuse", "recycle")

    await eventually(pressed)
    answer = await front.chat("more")
    assert (answer.status, answer.error["code"]) == (503, "memory_full")
    assert "the models take" in answer.error["message"]
    assert int(answer.headers["Retry-After"]) > 0
    pace.let(2)
    assert (await soon(stream.read())).endswith(b"data: [DONE]\n\n")


async def test_health_has_the_node_s_memory_and_each_model_s(serve: Serve) -> None:
    front = await serve(*of_size(), supervisor=limited(3 * ONE))

    async def measured() -> bool:
        return bool((await front.ask("/health")).json["memory"]["usedBytes"] == ONE)

    await eventually(measured)
    body = (await front.ask("/health")).json
    assert body["memory"] == {"usedBytes": ONE, "limitBytes": 3 * ONE, "pressure": "calm"}
    memory = body["models"]["m"]["memory"]
    assert memory["expectedBytes"] == memory["residentBytes"] == ONE
    assert 0 < memory["kvBudgetBytes"] < 3 * ONE


# --- time and places ------------------------------------------------------------------------


async def test_a_request_that_takes_too_long_is_a_504_that_is_not_sent_again(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, models=(model(request_timeout=0.2),))
    answer = await front.chat("one two")
    assert (answer.status, answer.error["code"]) == (504, "request_timeout")
    assert "0.2 s" in answer.error["message"]
    assert answer.headers["X-Should-Retry"] == "false"
    await front.reaches(running=0)


async def test_a_stream_that_takes_too_long_ends_with_an_error_event(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, models=(model(request_timeout=1),))
    pace.let(1)
    answer = await front.chat("one two", stream=True)
    assert (answer.status, answer.text) == (200, "one")
    assert answer.events[-1]["error"]["code"] == "request_timeout"
    await front.reaches(running=0)


async def test_a_noisy_session_gives_way_to_another_in_a_full_line(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1, max_queue=2),))

    def ask(text: str, session: str) -> asyncio.Task[Answer]:
        body = asked(text)
        return asyncio.ensure_future(front.ask("/v1/chat/completions", body, X_Session_Id=session))

    first = ask("zero", "noisy")
    await front.reaches(running=1)
    noisy = []
    for depth, text in enumerate(("one", "two"), 1):
        noisy.append(ask(text, "noisy"))
        await front.reaches(queueDepth=depth)
    calm = ask("calm", "calm")
    refused = await soon(noisy[1])
    assert (refused.status, refused.error["code"]) == (429, "queue_full")
    assert int(refused.headers["Retry-After"]) > 0
    pace.let(3)
    said = [(await soon(asking)).text for asking in (first, noisy[0], calm)]
    assert said == ["zero", "one", "calm"]


async def test_a_nameless_flood_of_one_key_gives_way_to_another_key(
    serve: Serve, pace: Fifo, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice:sk-of-alice-0123456789\nbob:sk-of-bob-0123456789\n")
    keys.chmod(0o600)
    front = await serve(
        "--pace",
        pace.path,
        models=(model(max_concurrency=1, max_queue=8),),
        server=ServerConfig(api_keys_file=keys),
        wait=False,
    )
    served = front.node.models["m"]
    await soon(served.child.reached(State.READY))

    def ask(text: str, who: str) -> asyncio.Task[Answer]:
        key = f"Bearer sk-of-{who}-0123456789"
        return asyncio.ensure_future(
            front.ask("/v1/chat/completions", asked(text), Authorization=key)
        )

    async def waiting(count: int) -> None:
        async def so() -> bool:
            return served.admission.queued == count

        await eventually(so)

    flood = [ask("first", "alice")]

    async def has_begun() -> bool:
        return served.admission.running == 1

    await eventually(has_begun)
    for number in range(8):
        await waiting(number)
        flood.append(ask(f"word{number}", "alice"))
    await waiting(8)
    calm = [ask(f"calm{number}", "bob") for number in range(4)]
    refused = [await soon(flood.pop()) for _ in range(4)]
    assert [answer.status for answer in refused] == [429] * 4
    order: list[str] = []
    pending = {*flood, *calm}
    while pending:
        pace.let(1)
        done, pending = await soon(asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED))
        order += [task.result().text for task in done]
    first, *others = order
    assert first == "first"
    assert [text.startswith("calm") for text in others] == [False, True] * 4


# --- the configuration ----------------------------------------------------------------------


async def test_a_node_without_a_file_has_nothing_to_reload(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask("/admin/reload", method="POST")
    assert (answer.status, answer.error["code"]) == (422, "config_error")
    assert (await front.ask("/v1/cluster/cache/warm", {"systemPrompt": PROMPT})).status == 200
