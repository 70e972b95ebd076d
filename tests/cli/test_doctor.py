"""Each finding of the doctor, where it is well and where it is not."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from mlx_worker.cli.doctor import machine
from mlx_worker.service.subprocess_runner import CommandResult
from tests.commands import run
from tests.processes import config_text
from tests.service.recorded import Recorded

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path, nano: Path) -> Path:
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"nano": nano}))
    return file


def words_of(said: str) -> dict[str, str]:
    """Each subject's word."""
    rows = [line.split() for line in said.splitlines()]
    return {row[1]: row[0] for row in rows if row[0] in ("ok", "warn", "bad")}


def test_a_machine_that_is_well_ends_with_0(config: Path) -> None:
    ran = run("doctor", "--config", str(config))
    assert ran.code == 0
    words = words_of(ran.said)
    assert {"python", "mlx", "blas", "configuration", "model", "memory", "port"} <= words.keys()
    assert "bad" not in words.values()


def hang_up(server: socket.socket) -> None:
    """Answer as no node would, the question and its repetition."""
    for _ in range(2):
        server.accept()[0].close()


def test_what_is_bad_ends_with_1_and_says_what_to_do(config: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = config_text({"lost": tmp_path / "nowhere"}).replace("port = 0", f"port = {port}")
        config.write_text(text)
        threading.Thread(target=hang_up, args=(taken,)).start()
        ran = run("doctor", "--config", str(config))
    assert ran.code == 1
    words = words_of(ran.said)
    assert (words["models"], words["port"]) == ("bad", "bad")
    assert "mlx-worker pull" in ran.said
    config.write_text("nonsense")
    ran = run("doctor", "--config", str(config))
    assert (ran.code, words_of(ran.said)["configuration"]) == (1, "bad")


def test_doctor_without_a_configuration_names_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--config", "elsewhere.toml"]):
        ran = run("doctor", *words)
        assert (ran.code, words_of(ran.said)["configuration"]) == (1, "bad")
        assert "`mlx-worker init` writes one" in ran.said
        assert "correct the file" not in ran.said


def test_an_mlx_that_cannot_compile_is_bad() -> None:
    assert (
        machine.mlx(lambda _: CommandResult(1, "Traceback\nRuntimeError: no g++")).severity == "bad"
    )
    assert machine.mlx(lambda _: CommandResult(-6, "")).said == "ended with -6"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_WORKER_API_KEY", "sesame")
    monkeypatch.setenv("MLX_WORKER_MODELS", "/models")
    said = machine.environment().said
    assert "MLX_WORKER_API_KEY is set" in said
    assert "MLX_WORKER_MODELS=/models" in said
    assert "sesame" not in said


def test_a_service_that_does_not_run_is_to_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    unit = tmp_path / "systemd/user/mlx-worker.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    stopped = Recorded(show=CommandResult(0, "ActiveState=inactive\nSubState=dead\nMainPID=0"))
    users, _ = machine.services(stopped)
    assert (users.severity, users.advice) == ("warn", "`mlx-worker service start`")
    running = Recorded(show=CommandResult(0, "ActiveState=active\nSubState=running\nMainPID=5"))
    assert next(iter(machine.services(running))).severity == "ok"
