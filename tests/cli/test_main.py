"""The command line: what it prints, and the exit codes that scripts and launchd read."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil
import pytest

from mlx_worker import __version__
from mlx_worker.cli.client import url_of
from mlx_worker.config.schema import ServerConfig
from tests.commands import Ran
from tests.commands import run as run_here
from tests.processes import (
    COMMAND,
    DEADLINE,
    RunningNode,
    config_text,
    eventually,
    has_ended,
    running_node,
)

if TYPE_CHECKING:
    from pathlib import Path


def run(
    *args: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def line_of(ran: Ran) -> str:
    """Return what `main` prints, as one line, of an error of a command that ran here."""
    assert len(ran.said.splitlines()) == 1, ran.said
    return ran.said


@pytest.fixture
def config(tmp_path: Path, tiny: Path) -> Path:
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"tiny": tiny}, extra='aliases = ["current-model"]'))
    return file


def test_the_versions_are_printed_without_importing_mlx() -> None:
    done = run("--version", PYTHONPROFILEIMPORTTIME="1")
    beside = [f"{package} {version(package)}" for package in ("mlx", "mlx-lm")]
    python = f"Python {platform.python_version()}"
    assert done.stdout == f"mlx-worker {__version__} ({', '.join([*beside, python])})\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"mlx", "mlx.core", "mlx_lm", "aiohttp"}


def test_check_prints_what_would_run(config: Path, tiny: Path) -> None:
    done = run_here("check", str(config))
    assert done.code == 0
    for part in ("127.0.0.1", "tiny, current-model", str(tiny), "llama", "context 8192"):
        assert part in done.said


def test_a_wrong_key_is_one_line_with_file_line_and_the_nearest_key(config: Path) -> None:
    config.write_text(config.read_text().replace("port = 0", "prot = 0"))
    said = f"{config}:3: server.prot: unknown key; did you mean 'port'?"
    done = run("serve", "-c", str(config))
    assert done.returncode == 78
    assert one_line(done).endswith(said)
    checked = run_here("check", str(config))
    assert checked.code == 78
    assert line_of(checked).rstrip().endswith(said)


def test_without_a_file_the_places_that_were_looked_at_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    served, checked = run("serve"), run_here("check")
    assert (served.returncode, checked.code) == (78, 78)
    for said in (one_line(served), line_of(checked)):
        assert "neither ./mlx-worker.toml nor " in said
        assert "mlx-worker/mlx-worker.toml: `mlx-worker init` writes one; or name another" in said


def test_no_configuration_is_one_line(tmp_path: Path) -> None:
    done = run("serve", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 78
    assert "there is no such file" in one_line(done)


def test_a_model_that_is_not_there_is_one_line(config: Path, tmp_path: Path) -> None:
    config.write_text(config_text({"lost": tmp_path / "nowhere"}))
    done = run_here("check", str(config))
    assert done.code == 66
    assert "model 'lost': Model not found" in line_of(done)


def test_half_a_model_folder_is_one_line(config: Path, tiny: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny, half)
    weights = half / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    config.write_text(config_text({"half": half}))
    done = run_here("check", str(config))
    assert done.code == 65
    assert "model 'half'" in line_of(done)
    assert "model.safetensors" in line_of(done)


def test_check_names_a_file_to_warm_that_is_not_there(config: Path) -> None:
    config.write_text(config.read_text() + '\nwarm = ["gone.txt"]\n')
    done = run_here("check", str(config))
    assert done.code == 78
    assert "models[0].warm[0]: " in line_of(done)
    assert "gone.txt is no file that can be read" in line_of(done)


def test_a_taken_port_is_one_line_and_nothing_is_left_running(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text().replace("port = 0", f"port = {port}"))
        before = {process.pid for process in psutil.Process().children(recursive=True)}
        done = run("serve", "-c", str(config))
    assert done.returncode == 69
    assert f"port {port}" in one_line(done)
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


def test_wrong_usage_is_2() -> None:
    assert run("serve", "--cofnig", "x").returncode == 2
    assert run_here("nonsense").code == 2


@pytest.mark.full
def test_a_shell_that_was_taught_completes_commands_and_options() -> None:
    script = run("completion", "bash").stdout
    assert "_MLX_WORKER_COMPLETE=bash_complete" in script
    for line, expected in (
        ("mlx-worker resta", "plain,restart"),
        ("mlx-worker top --ev", "--every"),
    ):
        asking = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = subprocess.run(
            COMMAND,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
            env=os.environ | asking | {"_MLX_WORKER_COMPLETE": "bash_complete"},
        )
        assert expected in done.stdout


def test_without_a_command_the_commands_are_listed() -> None:
    done = run()
    assert done.returncode == 2
    assert "Talk to a model in the terminal" in done.stderr


def test_serve_finds_the_configuration_where_it_stands(config: Path) -> None:
    config.write_text(config.read_text().replace("port = 0", "port = 99999"))
    done = run("serve", cwd=config.parent)
    assert done.returncode == 78
    assert "mlx-worker.toml:3: server.port" in one_line(done)


@pytest.mark.full
def test_processes_are_named(tiny: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"tiny": tiny}) as node:
        node.wait_until_ready()
        port = node.url.rpartition(":")[2]
        assert psutil.Process(node.process.pid).cmdline()[0] == f"mlx-worker: front, port {port}"
        assert [child.cmdline()[0] for child in node.children()] == [
            f"mlx-worker: tiny, port {port}"
        ]


@pytest.mark.full
def test_sigterm_ends_the_node_with_0_and_without_a_trace_back(tiny: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"tiny": tiny}) as node:
        node.wait_until_ready()
        family = node.children()
        assert node.stop() == 0
        eventually(lambda: all(has_ended(child) for child in family))
    assert not any("Traceback" in line for line in node.log)


# --- reload ---------------------------------------------------------------------------------


@pytest.mark.full
def test_reload_follows_the_file_and_a_bad_one_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlx-worker.toml"
    with running_node(tmp_path, {"a": tiny, "b": tiny}) as node:
        node.wait_until_ready()
        before = {name: node.model(name)["pid"] for name in "ab"}
        same = run("reload", "--url", node.url)
        assert same.stdout.startswith("no model has changed; API keys"), "they were read again"
        file.write_text("[[models]]\nid = 7\n")
        bad = run("reload", "--url", node.url)
        assert bad.returncode == 78
        assert "models[0].id" in one_line(bad)
        assert {name: node.model(name)["pid"] for name in "ab"} == before

        models = {"a": tiny, "c": tiny}
        text = config_text(models, server="max_body_bytes = 2048", extra="max_queue = 3")
        file.write_text(f'{text}\n[telemetry]\nendpoint = "http://127.0.0.1:4318"\n')
        done = run("reload", "--url", node.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "added: c",
            "removed: b",
            "changed: a",
            "needs restart: server.max_body_bytes, telemetry.endpoint",
        ]
        assert node.model("a")["pid"] == before["a"]
        eventually(lambda: node.model("c")["state"] == "ready")
        assert set(node.ask("/health").json["models"]) == {"a", "c"}
        eventually(lambda: not psutil.pid_exists(before["b"]))

        file.write_text(config_text({"a": tiny}, extra="context_length = 64"))
        node.process.send_signal(signal.SIGHUP)
        eventually(lambda: set(node.ask("/health").json["models"]) == {"a"})
        eventually(lambda: node.model("a")["contextLength"] == 64)
        assert node.model("a")["pid"] != before["a"]
        file.write_text("nonsense")
        node.process.send_signal(signal.SIGHUP)
        eventually(lambda: any("nothing was reloaded" in line for line in node.log))
        assert node.model("a")["state"] == "ready"


# --- restart --------------------------------------------------------------------------------


@pytest.mark.full
def test_restart_gives_a_model_a_new_process(tiny: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"tiny": tiny}, extra='aliases = ["other"]') as node:
        node.wait_until_ready()
        for name in ("tiny", "other"):
            before = node.model("tiny")
            done = run("restart", name, "--url", f"{node.url}/")
            assert (done.returncode, done.stderr) == (0, "")
            assert name in done.stdout
            eventually(partial(is_back, node, before["restarts"] + 1))
            assert node.model("tiny")["pid"] != before["pid"]
        lost = run("restart", "gpt-4o", "--url", node.url)
        assert lost.returncode == 66
        assert "'gpt-4o'" in one_line(lost)


def is_back(node: RunningNode, restarts: int) -> bool:
    entry = node.model("tiny")
    return (entry["restarts"], entry["state"]) == (restarts, "ready")


def test_restart_without_a_node_is_one_line(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config.write_text(config.read_text().replace("port = 0", f"port = {port}"))
    done = run_here("restart", "tiny", "--config", str(config))
    assert done.code == 69
    assert f"http://127.0.0.1:{port}" in line_of(done)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8081"),
        ("localhost", "http://localhost:8081"),
        ("0.0.0.0", "http://127.0.0.1:8081"),
        ("::", "http://[::1]:8081"),
        ("::1", "http://[::1]:8081"),
        ("10.1.2.3", "http://10.1.2.3:8081"),
    ],
)
def test_a_node_is_reached_where_its_configuration_listens(host: str, url: str) -> None:
    assert url_of(ServerConfig(host=host)) == url
