"""An operator has a model loaded, or sends it out of memory."""

from dataclasses import replace
from pathlib import Path

from mlx_worker.config.schema import SupervisorConfig
from mlx_worker.config.sizes import MemoryLimit
from tests.front.asking import Answer, Serve, asked, model
from tests.supervisor_harness import DEADLINE, PATIENT, Fifo, soon

TOO_LITTLE = SupervisorConfig(memory_limit=MemoryLimit(1 << 20))


async def test_a_model_is_unloaded_and_loaded_by_name(serve: Serve) -> None:
    front = await serve(models=(model("a", aliases=("org/name",)), model("b")))
    answer = await front.ask("/v1/admin/models/org/name/unload", method="POST")
    assert (answer.status, answer.json) == (202, {"model": "a", "unloading": True})
    await front.reaches("a", state="stopped", status="offline", pid=None)
    assert (await front.model("b"))["state"] == "ready"
    answer = await front.ask("/admin/models/a/load", method="POST")
    assert (answer.status, answer.json) == (202, {"model": "a", "loading": True})
    await front.reaches("a", state="ready")
    assert (await front.chat("hello", model="a")).text == "hello"


async def test_an_unloaded_model_comes_back_for_its_next_request(serve: Serve) -> None:
    front = await serve(resume=replace(PATIENT, load_wait=DEADLINE))
    await front.ask("/admin/models/m/unload", method="POST")
    await front.reaches(state="stopped")
    assert (await front.chat("hello")).text == "hello"


async def test_a_model_at_work_is_not_taken_away(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    refused = await front.ask("/admin/models/m/unload", method="POST")
    assert (refused.status, refused.error["code"]) == (409, "model_busy")
    assert "1 running, 0 waiting" in refused.error["message"]
    pace.let(2)
    assert Answer(200, stream.headers, await soon(stream.read())).text == "one two"
    assert (await front.ask("/admin/models/m/unload", method="POST")).status == 202
    await front.reaches(state="stopped")


async def test_loading_what_runs_changes_nothing(serve: Serve) -> None:
    front = await serve()
    pid = (await front.model())["pid"]
    assert (await front.ask("/admin/models/m/load", method="POST")).status == 202
    assert (await front.chat("hello")).text == "hello"
    entry = await front.model()
    assert (entry["pid"], entry["restarts"]) == (pid, 0)


async def test_a_model_that_still_loads_can_be_sent_away_again(serve: Serve, hold: Fifo) -> None:
    front = await serve("--hold-load", hold.path, wait=False)
    await front.reaches(state="loading")
    assert (await front.ask("/admin/models/m/unload", method="POST")).status == 202
    await front.reaches(state="stopped", status="offline")


async def test_a_model_that_was_given_up_is_loaded_again(serve: Serve, tmp_path: Path) -> None:
    front = await serve("--cannot-load", "--once", tmp_path / "once", wait=False)
    await front.reaches(state="failed")
    assert (await front.ask("/admin/models/m/load", method="POST")).status == 202
    await front.reaches(state="ready", reason="")


async def test_a_model_that_never_fits_is_refused_with_the_numbers(serve: Serve) -> None:
    front = await serve(models=(model(preload=False),), supervisor=TOO_LITTLE)
    refused = await front.ask("/admin/models/m/load", method="POST")
    assert (refused.status, refused.error["code"]) == (503, "model_too_large")


async def test_load_unload_unknown_name_is_a_404_also_with_a_default_model(serve: Serve) -> None:
    front = await serve(models=(model(default=True),))
    for verb in ("load", "unload"):
        answer = await front.ask(f"/admin/models/gpt-4o/{verb}", method="POST")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert (await front.model())["state"] == "ready"
