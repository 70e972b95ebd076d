"""The files that a forge, an editor and a commit hook look for agree with the project's own."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
GITHUB: Final = ROOT / ".github"

with (ROOT / "pyproject.toml").open("rb") as file:
    PYPROJECT: Final[dict[str, Any]] = tomllib.load(file)


def test_the_files_of_a_community_are_where_a_forge_looks_for_them() -> None:
    found = {str(file.relative_to(GITHUB)) for file in GITHUB.rglob("*") if file.is_file()}
    assert found >= {
        "CODE_OF_CONDUCT.md",
        "CONTRIBUTING.md",
        "ISSUE_TEMPLATE/config.yml",
        "ISSUE_TEMPLATE/fault.yml",
        "ISSUE_TEMPLATE/feature.yml",
        "PULL_REQUEST_TEMPLATE.md",
        "SECURITY.md",
        "dependabot.yml",
    }


@pytest.mark.parametrize("name", ["fault", "feature"])
def test_a_form_for_issues_has_what_a_forge_demands(name: str) -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields)
    assert all(part["attributes"]["label"] for part in fields)


def test_contributing_is_short_and_leads_to_the_pages() -> None:
    text = (GITHUB / "CONTRIBUTING.md").read_text()
    assert len(text.split()) < 300
    linked = set(re.findall(r"docs/contributing/([\w-]+)\.md", text))
    assert linked >= {"set-up", "how-to-add", "style", "versions"}


def test_the_hooks_use_the_linters_of_the_lint_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    used = {
        package
        for repository in hooks["repos"]
        for hook in repository["hooks"]
        for package in hook.get("additional_dependencies", ())
    }
    assert used <= set(PYPROJECT["dependency-groups"]["lint"])
    assert {re.split(r"\W", package)[0] for package in used} == {"import", "ruff"}


def test_editors_and_the_formatter_agree_on_the_longest_line() -> None:
    text = (ROOT / ".editorconfig").read_text()
    editor = configparser.ConfigParser()
    editor.read_string("[top]\n" + text)
    assert editor["*.py"]["max_line_length"] == str(PYPROJECT["tool"]["ruff"]["line-length"])
