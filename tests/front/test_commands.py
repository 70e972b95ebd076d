"""What an operator types, against a front with scripted children."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from mlx_worker.cli.reports.top import Speed
from mlx_worker.supervisor.process.states import State
from tests.commands import command
from tests.front.asking import Serve, asked, model
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.front.asking import StandIn
    from tests.supervisor_harness import Fifo


CHAT = "/v1/chat/completions"


@pytest.fixture
def unused_url() -> str:
    """Return a URL where no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# --- status -------------------------------------------------------------------------------


async def test_status_is_a_table_for_people_and_json_for_programs(serve: Serve) -> None:
    front = await serve(models=(model("a"), model("b", preload=False)))
    await front.chat("hello", model="a")
    shown = await command("status", "--url", front.url)
    assert shown.code == 0
    headline, _, a, b = shown.said.splitlines()[:4]
    assert front.url in headline
    assert "healthy" in headline
    assert a.split()[:2] == ["a", "ready"]
    assert str((await front.model("a"))["pid"]) in a
    assert b.split()[:2] == ["b", "stopped"]
    printed = await command("status", "--json", "--url", front.url)
    assert printed.code == 0
    assert json.loads(printed.said)["models"]["a"]["pid"] == (await front.model("a"))["pid"]


async def test_authorities_are_read_only_for_a_node_with_tls(
    serve: Serve, unused_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are hundreds of certificates, which take longer than the report."""
    read: list[object] = []
    create = ssl.create_default_context

    def counted(*args: Any, **more: Any) -> ssl.SSLContext:
        read.append(args)
        return create(*args, **more)

    monkeypatch.setattr(ssl, "create_default_context", counted)
    front = await serve()
    assert (await command("status", "--url", front.url)).code == 0
    assert read == []
    secured = unused_url.replace("http:", "HTTPS:")
    assert (await command("status", "--url", secured)).code == 69
    assert len(read) == 1


async def test_status_says_degraded_by_its_exit_code(serve: Serve, tmp_path: Path) -> None:
    models = (model("a"), model("b"))
    front = await serve("--cannot-load", "--once", tmp_path / "x", models=models, wait=False)
    for served in front.node.models.values():
        await soon(served.child.reached(State.READY, State.FAILED))
    shown = await command("status", "--url", front.url)
    assert shown.code == 3
    assert "failed" in shown.said
    assert "so it was written" in shown.said


async def test_status_says_unhealthy_by_its_exit_code(serve: Serve) -> None:
    front = await serve("--cannot-load", wait=False)
    await front.reaches(state="failed")
    assert (await command("status", "--json", "--url", front.url)).code == 4


async def test_status_says_initializing_by_its_exit_code(serve: Serve, hold: Fifo) -> None:
    front = await serve("--hold-load", hold.path, wait=False)
    await front.reaches(state="loading", loading={"done": 61_728, "total": 123_456})
    shown = await command("status", "--url", front.url)
    assert shown.code == 5
    assert "loading 50%" in shown.said


async def test_status_says_offline_by_its_exit_code(serve: Serve) -> None:
    front = await serve()
    await front.node.stop()
    assert (await command("status", "--url", front.url)).code == 6


async def test_a_node_that_is_not_there_is_one_line_and_69(unused_url: str) -> None:
    for words in (["status"], ["models"], ["load", "m"], ["logs"], ["logs", "-f"]):
        ran = await command(*words, "--url", unused_url)
        assert ran.code == 69, words
        assert f"no node answers at {unused_url}" in ran.said
    asked_ = await command("chat", "--url", unused_url, said="hello\n")
    assert asked_.code == 69


async def test_a_key_that_the_node_does_not_know_is_77(standing_in: StandIn) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no such key"}}, status=401)

    url = await standing_in(web.get("/health", refuse), web.get("/v1/models", refuse))
    for words in (["status"], ["models"], ["chat"]):
        ran = await command(*words, "--url", url, said="hello\n")
        assert ran.code == 77
        assert "asks for an API key, and none was sent: set MLX_WORKER_API_KEY" in ran.said
        assert "--config" in ran.said


async def test_a_wrong_key_is_told_from_none(
    standing_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no such key"}}, status=401)

    url = await standing_in(web.get("/health", refuse))
    monkeypatch.setenv("MLX_WORKER_API_KEY", "sesame")
    ran = await command("status", "--url", url)
    assert ran.code == 77
    assert "does not know the API key of MLX_WORKER_API_KEY" in ran.said
    assert "--config" in ran.said
    assert "sesame" not in ran.said


async def test_the_key_of_the_environment_is_shown(
    standing_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    async def note(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization"))
        return web.json_response({"data": []})

    url = await standing_in(web.get("/v1/models", note))
    await command("models", "--url", url)
    monkeypatch.setenv("MLX_WORKER_API_KEY", "sesame")
    await command("models", "--url", url)
    assert shown == [None, "Bearer sesame"]


async def test_the_key_of_a_named_configuration_is_shown_at_a_url(
    standing_in: StandIn, tmp_path: Path
) -> None:
    shown = []

    async def note(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization"))
        return web.json_response({"data": []})

    keys, config = tmp_path / "keys", tmp_path / "node.toml"
    keys.write_text("router:a-key-of-the-node\n")
    keys.chmod(0o600)
    config.write_text(f'[server]\napi_keys_file = "{keys}"\n[[models]]\nid = "m"\npath = "m"\n')
    url = await standing_in(web.get("/v1/models", note))
    assert (await command("models", "--url", url, "--config", str(config))).code == 0
    assert shown == ["Bearer a-key-of-the-node"]


async def test_what_answers_but_is_no_node_is_69(standing_in: StandIn) -> None:
    async def chatter(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    url = await standing_in(web.get("/health", chatter))
    assert (await command("status", "--url", url)).code == 69
    assert (await command("models", "--url", url)).code == 69


# --- top and models -----------------------------------------------------------------------


async def test_top_node_stops_keeps_showing_the_table(serve: Serve, unused_url: str) -> None:
    front = await serve()
    shown = await command("top", "-n", "2", "--every", "0.1", "--url", front.url)
    assert shown.code == 0
    assert "tok/s" in shown.said
    assert "0.0" in shown.said
    gone = await command("top", "-n", "1", "--url", unused_url)
    assert gone.code == 0
    assert "no node answers" in gone.said


async def test_health_counts_the_tokens_of_all_processes_of_a_model(serve: Serve) -> None:
    front = await serve()
    await front.chat("one two three")
    assert (await front.model())["metrics"]["generatedTokens"] == 3
    await front.ask("/admin/models/m/restart", method="POST")
    await front.reaches(state="ready", restarts=1)
    await front.chat("four five")
    assert (await front.model())["metrics"]["generatedTokens"] == 5


def test_tokens_per_second_are_what_came_between_two_looks() -> None:
    def counted(**counts: int) -> dict[str, Any]:
        return {"models": {k: {"metrics": {"generatedTokens": v}} for k, v in counts.items()}}

    speed = Speed()
    assert speed.rates_since(counted(a=10), 100.0) == {}
    assert speed.rates_since(counted(a=30, b=5), 102.0) == {"a": 10.0}
    assert speed.rates_since(counted(a=0, b=6), 104.0) == {"a": 0, "b": 0.5}


async def test_models_lists_a_model_once_with_its_aliases(serve: Serve) -> None:
    front = await serve(models=(model("a", aliases=("x", "y")), model("b", preload=False)))
    lines = (await command("models", "--url", front.url)).said.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["a", "ready", "4096", "x,", "y"],
        ["b", "stopped", "8192"],
    ]
    printed = await command("models", "--json", "--url", front.url)
    assert [entry["id"] for entry in json.loads(printed.said)["data"]] == ["a", "x", "y", "b"]


# --- commands to models -------------------------------------------------------------------


async def test_models_are_unloaded_loaded_and_restarted(serve: Serve) -> None:
    front = await serve()
    at = ("--url", front.url)
    assert (await command("unload", "m", *at)).code == 0
    await front.reaches(state="stopped")
    assert (await command("load", "m", *at)).code == 0
    await front.reaches(state="ready")
    restarts = (await front.model())["restarts"]
    assert (await command("restart", "m", *at)).code == 0
    await front.reaches(state="ready", restarts=restarts + 1)


async def test_unload_busy_model_is_exit_75_and_unknown_model_66(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open("/v1/chat/completions", asked("hello", stream=True)))
    busy = await command("unload", "m", "--url", front.url)
    assert busy.code == 75
    assert "at work" in busy.said
    pace.let(1)
    await soon(stream.read())
    for verb in ("load", "unload", "restart"):
        assert (await command(verb, "lost", "--url", front.url)).code == 66


async def test_cancel_ends_a_request_and_an_unknown_one_is_exit_66(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    named = {"X-Request-Id": "the/request"}
    asking = asyncio.ensure_future(front.ask(CHAT, asked("one two"), **named))
    await front.reaches(running=1)
    done = await command("cancel", "the/request", "--url", front.url)
    assert (done.code, done.said) == (0, "the/request is cancelled\n")
    answer = await soon(asking)
    assert (answer.status, answer.error["code"]) == (500, "cancelled_by_operator")
    again = await command("cancel", "the/request", "--url", front.url)
    assert again.code == 66
    assert "'the/request'" in again.said


async def test_prompts_are_warmed_and_forgotten(serve: Serve, tmp_path: Path) -> None:
    front = await serve(models=(model("a"), model("b")))
    at = ("--url", front.url)
    file = tmp_path / "prompt.txt"
    file.write_text("be kind and brief")
    warmed = await command("warm", str(file), "--model", "b", *at)
    state = (await front.ask("/cache?model=b")).json
    assert warmed.said == f"b: {state['tokens']} tokens, {state['systemPromptHash']}\n"
    assert (await command("warm", "-", *at, said="be brief")).said.startswith("a: ")
    file.write_text("be kind and brief", encoding="utf-8-sig")
    marked = await command("warm", str(file), "--model", "b", *at)
    assert marked.said == warmed.said, "a byte order mark is no part of a prompt"
    file.write_text("be kind and brief", encoding="utf-16")
    refused = await command("warm", str(file), *at)
    assert refused.code == 2
    assert "the encoding is UTF-16" in refused.said
    assert (await command("cache", "clear", "b", *at)).said == "cleared: b\n"
    assert (await command("cache", "clear", *at)).said == "cleared: a, b\n"
    assert (await front.ask("/cache?model=b")).json["tokens"] == 0


# --- logs ---------------------------------------------------------------------------------


async def test_logs_are_what_a_models_process_wrote(serve: Serve) -> None:
    front = await serve("--write", "so it was written")
    printed = await command("logs", "m", "--url", front.url)
    assert printed.code == 0
    pid = (await front.model())["pid"]
    assert f"[{pid}] so it was written" in printed.said
    assert (await command("logs", "lost", "--url", front.url)).code == 66


async def test_logs_are_printed_and_followed(standing_in: StandIn) -> None:
    models = []
    line = {"id": 1, "at": 0, "pid": 7, "level": "info", "text": "loading [1/2]"}

    async def lines(request: web.Request) -> web.Response:
        models.append(request.query.get("model"))
        return web.json_response({"lines": [line] if "model" in request.query else []})

    async def listed(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "root": "m"}]})

    async def stream(request: web.Request) -> web.StreamResponse:
        models.append(request.query.get("model"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for i in (1, 2):
            event = json.dumps({"id": i, "at": 0, "level": "error", "text": f"line {i}"})
            await response.write(f": still here\n\nid: {i}\ndata: {event}\n\n".encode())
        return response

    url = await standing_in(
        web.get("/admin/logs", lines),
        web.get("/admin/logs/stream", stream),
        web.get("/v1/models", listed),
    )
    printed = await command("logs", "m", "--url", url)
    assert printed.code == 0
    assert printed.said.endswith(" info [7] loading [1/2]\n")
    followed = await command("logs", "-f", "--url", url)
    assert [line.partition(" error ")[2] for line in followed.said.splitlines()] == [
        "line 1",
        "line 2",
    ]
    assert models == ["m", None, None]
