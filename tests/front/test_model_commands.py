"""Names of models on the command line, waiting for a model, log lines, processes, completion."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from click.shell_completion import ShellComplete
from msgspec.structs import replace

from mlx_worker.api.admin.process_report import (
    MeasuredProcess,
    ProcessEntry,
    _entries,
    measure,
)
from mlx_worker.cli.client import NodeClient
from mlx_worker.cli.client.model_names import near_names, unknown_among
from mlx_worker.cli.client.waiting import act_and_wait
from mlx_worker.cli.main import app
from mlx_worker.cli.reports.logs import DEFAULT_LINES, LogFilter, read_since
from mlx_worker.errors import ModelFailed
from mlx_worker.supervisor.process.states import State
from tests.commands import command
from tests.front.asking import Serve, model
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.front.asking import Front
    from tests.supervisor_harness import Fifo


def at(front: Front) -> tuple[str, str]:
    return ("--url", str(front.client.make_url("")).rstrip("/"))


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("load", "nano-b"),
        ("unload", "nano-b"),
        ("restart", "nano-b", "--wait"),
        ("inspect", "nano-b"),
        ("logs", "nano-b"),
        ("logs", "nano-b", "--follow"),
        ("cache", "clear", "nano-b"),
        ("warm", "-", "--model", "nano-b"),
        ("chat", "nano-b"),
        ("client-config", "codex", "--model", "nano-b"),
    ],
    ids=" ".join,
)
async def test_an_unknown_model_is_one_error_everywhere(
    words: tuple[str, ...], serve: Serve
) -> None:
    front = await serve(models=(model("nano", aliases=("x",), default=True), model("other")))
    ran = await command(*words, *at(front), said="be kind\n")
    assert ran.code == 66
    assert ran.said == ("the node has no model 'nano-b', only nano, x, other; did you mean 'nano'?")
    assert (await front.model("nano"))["metrics"]["totalRequests"] == 0


async def test_an_alias_is_a_name_of_its_model(serve: Serve) -> None:
    front = await serve(models=(model("nano", aliases=("x",)),))
    for words in (("load", "x"), ("logs", "x"), ("cache", "clear", "x"), ("inspect", "x")):
        assert (await command(*words, *at(front))).code == 0


def test_names_that_may_be_meant_are_alike_or_contain_the_name() -> None:
    known = ["Qwen3-30B-A3B", "Qwen3-4B", "gemma-3"]
    assert near_names("qwen3-30b-a3b", known)[0] == "Qwen3-30B-A3B"
    assert near_names("4b", known) == ["Qwen3-4B"]
    assert near_names("llama", known) == []


def test_a_long_list_of_models_is_shortened() -> None:
    said = unknown_among("the node", "zz", [f"model-{i:02}" for i in range(25)]).message
    assert "model-19 and 5 more" in said
    assert "model-20" not in said


async def test_inspect_shows_a_model_also_where_every_model_was_given_up(serve: Serve) -> None:
    front = await serve("--cannot-load", wait=False)
    await front.reaches(state="failed")
    shown = await command("inspect", "m", *at(front))
    assert shown.code == 0
    assert "failed" in shown.said
    assert (await command("inspect", "n", *at(front))).code == 66


# --- status -----------------------------------------------------------------------------


async def test_status_has_the_share_of_cached_prompt_tokens(serve: Serve) -> None:
    front = await serve()
    assert "prompt tokens cached" not in (await command("status", *at(front))).said
    await front.chat("one two three")
    metrics = (await front.model())["metrics"]
    assert metrics["promptTokens"] > 0
    share = 100 * metrics["cachedTokens"] // metrics["promptTokens"]
    assert f"{share}% of prompt tokens cached" in (await command("status", *at(front))).said


# --- waiting ----------------------------------------------------------------------------


async def test_commands_wait_until_the_node_has_done_it(serve: Serve) -> None:
    front = await serve()
    unloaded = await command("unload", "m", "--wait", *at(front))
    assert unloaded.code == 0
    assert (await front.model())["state"] == "stopped"
    loaded = await command("load", "m", "--wait", "--timeout", "30", *at(front))
    assert loaded.code == 0
    assert loaded.said.endswith("m is ready\n")
    assert (await front.model())["state"] == "ready"
    before = (await front.model())["pid"]
    assert (await command("restart", "m", "--wait", *at(front))).code == 0
    after = await front.model()
    assert after["state"] == "ready"
    assert after["pid"] != before


async def test_waiting_for_a_model_that_fails_ends_with_1(serve: Serve) -> None:
    front = await serve("--cannot-load", wait=False)
    await front.reaches(state="failed")
    ran = await command("load", "m", "--wait", *at(front))
    assert ran.code == 1
    assert "m failed: " in ran.said


async def test_waiting_for_a_model_whose_folder_is_missing_ends(
    serve: Serve, tmp_path: Path
) -> None:
    front = await serve(models=(replace(model("m"), path=str(tmp_path / "nowhere")),), wait=False)
    await front.reaches(state="failed")
    node = NodeClient.at(at(front)[1])
    with pytest.raises(ModelFailed, match="nowhere"):
        await soon(act_and_wait(node, "m", "load", limit=None, on_state=ignore, grace=0.0))


def ignore(_id: str, _report: Mapping[str, Any]) -> None:
    """Print nothing."""


async def test_waiting_longer_than_the_limit_ends_with_75(serve: Serve, hold: Fifo) -> None:
    front = await serve("--hold-load", hold.path, wait=False)
    await soon(front.node.models["m"].child.reached(State.LOADING))
    ran = await command("load", "m", "--wait", "--timeout", "0.01", *at(front))
    assert ran.code == 75
    assert "m is not ready after 0.01 s" in ran.said


async def test_a_limit_without_waiting_is_wrong_usage(serve: Serve) -> None:
    front = await serve()
    assert (await command("load", "m", "--timeout", "1", *at(front))).code == 2


# --- logs -------------------------------------------------------------------------------


def line(i: int, level: str = "info") -> dict[str, object]:
    return {"id": i, "at": i * 1000, "level": level, "text": f"line {i}"}


def test_log_lines_are_chosen_by_level_time_and_number() -> None:
    kept = [line(1, "error"), line(2), line(3, "warning"), line(4, "debug")]

    def ids(**chosen: object) -> list[object]:
        return [each["id"] for each in LogFilter(**chosen).chosen(kept)]  # type: ignore[arg-type]

    assert ids() == [1, 2, 3, 4]
    assert ids(level="warning") == [1, 3]
    assert ids(since=2.0) == [2, 3, 4]
    assert ids(last=2) == [3, 4]
    assert ids(last=0) == []
    assert ids(level="info", last=1) == [3]


def test_a_time_is_a_span_a_time_of_day_or_a_date() -> None:
    now = 1_770_000_000.0
    assert read_since("90s", now) == now - 90
    assert read_since("1.5h", now) == now - 5400
    assert read_since("2d", now) == now - 172_800
    assert read_since("2026-02-02T02:40:00+00:00", now) == 1_770_000_000
    assert read_since("9:05", now) == read_since("09:05:00", now)
    for text in ("", "yesterday", "10", "25:00"):
        with pytest.raises(ValueError, match="is no time such as 10m"):
            read_since(text, now)


async def test_logs_are_chosen_and_printed_as_json(serve: Serve) -> None:
    front = await serve("--write", "one\ntwo\nthree")
    two = await command("logs", "m", "-n", "2", "--json", *at(front))
    lines = [json.loads(text) for text in two.said.splitlines()]
    assert len(lines) == 2
    assert {"at", "level", "text", "pid"} <= lines[0].keys()
    assert (await command("logs", "m", "--level", "error", *at(front))).said == ""
    assert (await command("logs", "m", "--since", "1h", *at(front))).said != ""
    assert (await command("logs", "m", "--since", "2999-01-01", *at(front))).said == ""
    assert (await command("logs", "--since", "soon", *at(front))).code == 2


async def test_logs_print_the_last_lines_unless_more_are_asked_for(serve: Serve) -> None:
    front = await serve("--write", "\n".join(f"line {i}" for i in range(DEFAULT_LINES + 20)))
    few = (await command("logs", "m", *at(front))).said.splitlines()
    assert len(few) == DEFAULT_LINES
    more = (await command("logs", "m", "-n", "1000", *at(front))).said.splitlines()
    assert len(more) > DEFAULT_LINES


# --- processes --------------------------------------------------------------------------


async def test_processes_of_the_node_are_listed(serve: Serve) -> None:
    front = await serve(models=(model("a"), model("b", preload=False)))
    first, *others = (await front.ask("/admin/processes")).json["processes"]
    assert (first["kind"], first["state"]) == ("front", "ready")
    assert first["residentBytes"] > 0
    (served,) = [process for process in others if process["kind"] == "model"]
    assert (served["model"], served["pid"]) == ("a", (await front.model("a"))["pid"])
    shown = (await command("ps", *at(front))).said
    assert shown.splitlines()[0].split() == ["pid", "process", "model", "state", "memory"]
    assert f"{served['pid']}  model" in shown


async def test_process_that_keeps_the_machine_awake_is_no_spare(serve: Serve) -> None:
    node = (await serve()).node
    assertion = MeasuredProcess(os.getpid(), 1000, "/usr/bin/caffeinate")
    found = _entries(node, measure(os.getpid()) | {7: assertion}, 7)
    assert [each for each in found if each.pid == 7] == [ProcessEntry("assertion", 7, "held", 1000)]


# --- completion -------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    """What a shell offers after these words; the last one is incomplete."""
    shell = ShellComplete(app, {}, "mlx-worker", "_MLX_WORKER_COMPLETE")
    *before, incomplete = words
    return [item.value for item in shell.get_completions(list(before), incomplete)]


async def test_names_of_models_are_completed_from_the_node(serve: Serve) -> None:
    front = await serve(models=(model("nano", aliases=("nan",)), model("other")))

    for words in (("load",), ("logs",), ("chat",), ("warm", "x", "--model")):
        found = await asyncio.to_thread(completed, *words[:1], *at(front), *words[1:], "na")
        assert found == ["nano", "nan"], words


async def test_names_of_models_are_completed_from_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    file = tmp_path / "mlx-worker.toml"
    file.write_text('[server]\nport = 1\n[[models]]\nid = "nano"\npath = "x"\naliases = ["n2"]\n')
    monkeypatch.chdir(tmp_path)
    assert await asyncio.to_thread(completed, "unload", "n") == ["nano", "n2"]
    file.write_text("nonsense")
    assert await asyncio.to_thread(completed, "unload", "n") == []
