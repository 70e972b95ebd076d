"""An operator asks for a new process of a model."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.front.asking import Answer, Serve, asked, model
from tests.supervisor_harness import QUICK, Fifo, soon


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_a_model_is_restarted_and_the_others_are_not(serve: Serve, prefix: str) -> None:
    front = await serve(models=(model("a", aliases=("org/name",)), model("b")))
    pids = {name: (await front.model(name))["pid"] for name in ("a", "b")}
    answer = await front.ask(f"{prefix}/admin/models/org/name/restart", method="POST")
    assert (answer.status, answer.json) == (202, {"model": "a", "restarting": True})
    await front.reaches("a", restarts=1, state="ready", resumes=0)
    assert (await front.model("a"))["pid"] != pids["a"]
    assert (await front.model("b"))["pid"] == pids["b"]
    assert (await front.chat("hello", model="a")).text == "hello"


async def test_a_model_that_was_given_up_is_started_again(serve: Serve, tmp_path: Path) -> None:
    front = await serve("--cannot-load", "--once", tmp_path / "once", wait=False)
    await front.reaches(state="failed")
    assert (await front.chat("hello")).status == 503
    assert (await front.ask("/admin/models/m/restart", method="POST")).status == 202
    await front.reaches(state="ready", reason="")
    assert (await front.chat("hello")).text == "hello"


async def test_a_running_stream_finishes_before_the_restart(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path, timings=replace(QUICK, drain=3600))
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    await front.ask("/admin/models/m/restart", method="POST")
    await front.reaches(state="draining")
    pace.let(2)
    said = await soon(stream.read())
    assert Answer(200, stream.headers, said).text == "one two"
    await front.reaches(state="ready", restarts=1, resumes=0)


async def test_restart_unknown_name_is_a_404_also_with_a_default_model(
    serve: Serve,
) -> None:
    front = await serve(models=(model(default=True),))
    answer = await front.ask("/admin/models/gpt-4o/restart", method="POST")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert (await front.model())["restarts"] == 0
    assert (await front.ask("/admin/models/m/restart", method="GET")).status == 405
