"""What hosted CI would run exists here: environments, scripts, tools, versions of Python.

No hosted runner has run these files. What can be held without one is held here.
"""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
FILES: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS: Final[dict[str, Any]] = {file.stem: yaml.safe_load(file.read_text()) for file in FILES}

NOT_HOSTED: Final = {"screenshots"}
"""Environments that write files of the repository."""


JOBS: Final[list[tuple[str, Any]]] = [
    (f"{name}.{job}", content)
    for name, workflow in WORKFLOWS.items()
    for job, content in workflow["jobs"].items()
]


def steps() -> Iterator[tuple[str, Any]]:
    for name, job in JOBS:
        yield from ((name, step) for step in job["steps"])


def commands() -> str:
    return "\n".join(step.get("run", "") for _, step in steps())


def matrix(workflow: str, job: str) -> Any:
    return WORKFLOWS[workflow]["jobs"][job]["strategy"]["matrix"]


def test_the_workflows_are_those_that_the_documents_name() -> None:
    assert set(WORKFLOWS) == {"ci", "macos", "nightly", "release"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_says_that_it_was_not_run(file: Path) -> None:
    assert file.read_text().startswith("# Not run by the authors")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_no_permission_of_its_own(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}


@pytest.mark.parametrize(("name", "job"), JOBS, ids=[name for name, _ in JOBS])
def test_a_job_has_an_end_and_may_write_only_where_it_must(name: str, job: Any) -> None:
    assert job["timeout-minutes"] <= 350
    written = {scope for scope, access in job["permissions"].items() if access == "write"}
    expected = {
        "release.publish": {"id-token"},
        "release.notes": {"contents"},
        "release.images": {"packages"},
    }
    assert written == expected.get(name, set())


def test_every_action_is_pinned_by_a_whole_version_and_the_same_everywhere() -> None:
    used = {step["uses"] for _, step in steps() if "uses" in step}
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@v\d+\.\d+\.\d+", action)] == []
    assert len({action.partition("@")[0] for action in used}) == len(used)


def test_a_checkout_leaves_no_credentials_behind() -> None:
    checkouts = [
        step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_every_environment_of_tox_is_run_by_a_workflow() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    sections = {name.partition(":")[2] for name in tox.sections() if ":" in name}
    run = {*re.findall(r"tox -e (\w+)", commands()), *matrix("nightly", "slow")["environment"]}
    assert run == (sections | {"py"}) - NOT_HOSTED


def test_the_tests_run_on_every_python_that_is_allowed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        allowed = tomllib.load(file)["project"]["requires-python"]
    first, last = (int(minor) for minor in re.findall(r"3\.(\d+)", allowed))
    assert matrix("ci", "tests")["python"] == [f"3.{minor}" for minor in range(first, last)]


def test_every_script_and_tool_that_is_run_exists() -> None:
    scripts = re.findall(r"^\.ci/\w+", commands(), re.MULTILINE)
    assert scripts == [".ci/service"]
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    tools = re.findall(r"-m (tests\.[\w.]+)", commands())
    assert tools
    assert [tool for tool in tools if not (ROOT / f"{tool.replace('.', '/')}.py").is_file()] == []


def test_a_release_is_published_only_after_the_wheel_was_tried() -> None:
    release = WORKFLOWS["release"]["jobs"]
    assert release["try"]["needs"] == "build"
    assert release["publish"]["needs"] == "try"
    assert {name for name, job in release.items() if job.get("needs") == "publish"} == {
        "images",
        "notes",
    }


def test_every_kind_of_image_has_its_containerfile() -> None:
    kinds = {entry["kind"] for entry in matrix("release", "images")["include"]}
    files = {file.suffix.removeprefix(".") for file in (ROOT / "deploy").glob("Containerfile.*")}
    assert kinds == files
