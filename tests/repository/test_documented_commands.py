"""Every command in the documents is run by a test, or says why not; every setting is known."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from mlx_worker.config import reference
from tests.documented_commands import DOCUMENTS, ROOT, RUN_BY, run_elsewhere, shown_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.documented_commands import Shown

IN_SHELL = ("mkdir ", "echo ", "chmod ", "python3 -c ", "curl ")
"""Beginnings of commands that `tests/front/test_documents.py` runs in a shell."""

TOML = re.compile(r"^ *```toml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def page_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_known(shown: Shown) -> bool:
    line = shown.line.removeprefix(".venv/bin/")
    return (
        shown.marked
        or run_elsewhere(shown.line) is not None
        or line.startswith(("mlx-worker ", *IN_SHELL))
    )


def test_every_command_is_run_by_a_test_or_says_why_not() -> None:
    shown = [
        (page_of(path), shown) for path in DOCUMENTS for block in shown_in(path) for shown in block
    ]
    assert len(shown) > 100
    assert [(page, item.line) for page, item in shown if not is_known(item)] == []


def test_the_tests_that_run_commands_exist() -> None:
    assert [test for test in RUN_BY.values() if not (ROOT / test).exists()] == []


def test_a_command_without_a_test_is_seen(tmp_path: Path) -> None:
    page = ROOT / "docs" / "index.md"
    text = page.read_text()
    assert not list(shown_in(page)), "the page has no commands"
    file = tmp_path / "page.md"
    file.write_text(
        f"{text}\n```sh\nrm -rf ~/models\nsudo reboot  # macOS only\n"
        "ollama run x  # not run by a test: needs ollama\n```\n"
    )
    (block,) = shown_in(file)
    assert [(shown.line, is_known(shown)) for shown in block] == [
        ("rm -rf ~/models", False),
        ("sudo reboot", True),
        ("ollama run x", True),
    ]


SETTINGS = [
    pytest.param(text, id=f"{page_of(path)}-{number}")
    for path in DOCUMENTS
    if "contributing" not in path.parts  # settings of the project, not of a node
    for number, text in enumerate(TOML.findall(path.read_text()), 1)
]


@pytest.mark.parametrize("text", SETTINGS)
def test_every_setting_that_a_document_shows_is_known(text: str) -> None:
    shown: dict[str, Any] = {"models": [{"id": "m", "path": "p"}], **tomllib.loads(text)}
    jsonschema_rs.validate(reference.json_schema(), shown)
