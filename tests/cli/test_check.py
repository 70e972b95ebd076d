"""`check` reports every problem at once, each once, and nothing that only follows from another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.processes import config_text

if TYPE_CHECKING:
    from pathlib import Path

MODEL = '[[models]]\nid = "m"\npath = "m"\n'


def problems_of(file: Path, text: str) -> tuple[int, list[str]]:
    """The exit code, and each problem without the name of the file."""
    file.write_text(text)
    ran = run("check", str(file))
    prefix = f"mlx-worker: {file}"
    lines = [line.removeprefix(prefix).lstrip(":") for line in ran.said.splitlines()]
    return ran.code, lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mlx-worker.toml"


def test_problems_of_every_kind_are_reported_together(
    file: Path, nano: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    half.mkdir()
    code, lines = problems_of(
        file,
        "[server]\nprot = 8081\nmax_connections = 0\n"
        '[supervisor]\nstandby = "one"\n'
        f'[[models]]\nid = "a"\npath = "{nano}"\nwarm = ["gone.txt"]\n'
        f'[[models]]\nid = "a"\npath = "{half}"\n'
        '[[models]]\nid = "c"\npath = "nowhere"\n',
    )
    assert code == 78
    keys = ["prot", "max_connections", "standby", "id", "warm", "config.json", "nowhere"]
    assert len(lines) == len(keys), lines
    for key, line in zip(keys, lines, strict=True):
        assert key in line, lines
    assert lines[0] == "2: server.prot: unknown key; did you mean 'port'?"
    assert lines[3].startswith("11: models[1].id: 'a' is already the name at models[0].id")


def test_a_table_with_several_wrong_values_has_several_problems(file: Path) -> None:
    text = '[server]\nport = "x"\nhost = 7\nmax_connections = -1\n' + MODEL
    code, lines = problems_of(file, text)
    assert code == 78
    assert [line.split(": ")[1] for line in lines[:3]] == [
        "server.port",
        "server.host",
        "server.max_connections",
    ]
    assert len(lines) == 4, "and the folder that is not there"


def test_a_nested_value_and_a_missing_key_are_both_reported(file: Path) -> None:
    text = (
        '[[models]]\npath = "m"\naliases = [7]\n[models.defaults]\ntemperature = "hot"\ntop_p = 7\n'
    )
    _, lines = problems_of(file, text)
    assert sorted(line.split(": ")[1] for line in lines) == [
        "models[0].aliases[0]",
        "models[0].defaults.temperature",
        "models[0].defaults.top_p",
        "models[0].id",
    ]


def test_what_follows_from_a_wrong_value_is_not_reported(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLX_WORKER_API_KEYS", raising=False)
    for key in ("insecrue = true", 'insecure = "yes"'):
        _, lines = problems_of(file, f'[server]\nhost = "0.0.0.0"\n{key}\n{MODEL}')
        assert [line for line in lines if "server" in line and "Model not found" not in line] == [
            lines[0]
        ], lines


@pytest.mark.parametrize("text", ["[server]\nport = 1\n", "models = 7\n", "models = []\n"])
def test_a_list_of_models_that_is_wrong_is_one_problem(file: Path, text: str) -> None:
    code, lines = problems_of(file, text)
    assert code == 78
    assert len(lines) == 1
    assert "models" in lines[0]


def test_variables_that_are_not_set_are_all_reported(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    text = "".join(f'[[models]]\nid = "{id_}"\npath = "$NOT_SET_HERE/m"\n' for id_ in "ab")
    _, lines = problems_of(file, text)
    assert len(lines) == 2
    assert all("the variable NOT_SET_HERE is not set" in line for line in lines)


def test_a_file_that_is_no_toml_is_one_problem(file: Path) -> None:
    code, lines = problems_of(file, "[server\n")
    assert code == 78
    assert len(lines) == 1
    assert "not TOML" in lines[0]


def test_the_exit_code_of_several_broken_folders_is_that_of_the_first(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    code, lines = problems_of(
        file, config_text({"a": tmp_path / "empty", "b": tmp_path / "nowhere"})
    )
    assert code == 65
    assert len(lines) == 2


def test_problems_and_plan_are_json_for_programs(file: Path, nano: Path) -> None:
    file.write_text(config_text({"nano": nano}))
    ran = run("check", "--json", str(file))
    assert ran.code == 0
    (model,) = json.loads(ran.said)["models"]
    assert (model["id"], model["folder"]) == ("nano", str(nano))
    file.write_text(config_text({"nano": nano}).replace("port", "prot"))
    ran = run("check", "--json", str(file))
    assert ran.code == 78
    (problem,) = json.loads(ran.said)["problems"]
    assert (problem["key"], problem["exitCode"]) == ("server.prot", 78)
