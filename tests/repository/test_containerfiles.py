"""The images run as a user without rights, are asked for their health, and copy what exists."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from mlx_worker.cli.reports.status import EXIT_CODES
from mlx_worker.config.schema import FILE_NAME, ServerConfig
from mlx_worker.models.store import default_models_dir

ROOT: Final = Path(__file__).parents[2]
FILES: Final = sorted((ROOT / "deploy").glob("Containerfile.*"))

Instructions = list[tuple[str, str]]

files = pytest.mark.parametrize("file", FILES, ids=lambda file: file.suffix)


def stages(file: Path) -> list[Instructions]:
    """Return the instructions of each stage: their name, and the rest as one line."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[Instructions] = [[]]
    for line in filter(None, joined.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, rest))
    return stages


def only(instructions: Instructions, name: str) -> str:
    (found,) = [rest for kind, rest in instructions if kind == name]
    return found


def test_there_are_two() -> None:
    assert [file.suffix for file in FILES] == [".cpu", ".cuda"]


@files
def test_the_node_runs_as_a_user_without_rights(file: Path) -> None:
    *_, last = stages(file)
    user = only(last, "USER")
    assert int(user) > 0
    assert f"--uid {user} " in " ".join(rest for name, rest in last if name == "RUN")


@files
def test_the_health_check_accepts_a_node_that_serves_or_will(file: Path) -> None:
    *_, last = stages(file)
    shell, option, script = json.loads(only(last, "HEALTHCHECK").partition("CMD ")[2])
    assert (shell, option) == ("sh", "-c")
    accepted = {int(code) for code in script.partition("in ")[2].partition(")")[0].split("|")}
    assert accepted == {EXIT_CODES[word] for word in ("healthy", "degraded", "initializing")}


@files
def test_one_folder_has_the_configuration_and_one_keeps_the_models(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, last = stages(file)
    about = file.read_text().partition("ARG ")[0]
    assert f"{only(last, 'WORKDIR')}:ro" in about
    assert f"mlx-models:{only(last, 'VOLUME')} " in about
    for assignment in only(last, "ENV").split():
        if assignment.startswith("MLX_WORKER"):
            monkeypatch.setenv(*assignment.split("="))
    assert str(default_models_dir()) == f"{only(last, 'VOLUME')}/models"
    assert FILE_NAME in about
    assert int(only(last, "EXPOSE")) == ServerConfig().port


@files
def test_the_node_is_the_first_process_and_serves(file: Path) -> None:
    *_, last = stages(file)
    assert json.loads(only(last, "ENTRYPOINT")) + json.loads(only(last, "CMD")) == [
        "mlx-worker",
        "serve",
    ]


@files
def test_what_is_copied_exists_and_is_sent(file: Path) -> None:
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for name, rest in (item for stage in stages(file) for item in stage):
        if name == "COPY" and not rest.startswith("--from="):
            copied |= set(rest.split()[:-1])
    assert copied == sent
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_extra_of_the_gpu_exists() -> None:
    (file,) = [file for file in FILES if file.suffix == ".cuda"]
    with (ROOT / "pyproject.toml").open("rb") as project:
        extras = tomllib.load(project)["project"]["optional-dependencies"]
    text = file.read_text()
    assert f"cuda{re.findall(r'^ARG CUDA=(.+)$', text, re.MULTILINE)[0]}" in extras
    assert "/source[cuda${CUDA}]" in text
