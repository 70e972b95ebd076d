"""The figures of the page about models and memory are what `mlx-worker fits` computes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest

from mlx_worker.child.memory_probe import probe
from mlx_worker.cli.model_files.fits_report import report_of
from mlx_worker.cli.model_files.memory_needs import Where, fit_of
from mlx_worker.config.sizes import MemoryLimit
from mlx_worker.supervisor.memory.fit import Question
from tests.commands import run

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/how-to/which-model-fits.md").read_text(encoding="utf-8")
BLOCK: Final = re.compile(r"```json\n(.*?)```", re.DOTALL)
EXAMPLE: Final = re.compile(r"```console\n\$ mlx-worker (.*?)\n(.*?)```", re.DOTALL)
MACHINE: Final = re.compile(r"this machine has [\d.]+ .B")
LIMITS: Final = ("12GiB", "24GiB", "36GiB", "72GiB")
SHAPES: Final = {"qwen3": "dense", "qwen3_moe": "experts", "gemma3_text": "window"}
"""The name of each file on the page, by its model_type."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the page's files."""
    for text in BLOCK.findall(PAGE):
        name = SHAPES[json.loads(text)["model_type"]]
        (tmp_path / f"{name}.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(name: str, limit: str) -> dict[str, Any]:
    """Return what the command prints, for a model that is built in this process."""
    where = Where(None, memory_limit=MemoryLimit.read(limit))
    return report_of(fit_of(f"{name}.json", where, probe), Question())


@pytest.mark.full
@pytest.mark.usefixtures("folder")
def test_the_example_prints_what_the_page_shows() -> None:
    ((words, shown),) = EXAMPLE.findall(PAGE)
    ran = run(*shlex.split(words))
    assert ran.code == 0
    assert MACHINE.sub("", ran.said) == MACHINE.sub("", shown)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", SHAPES.values())
def test_the_table_has_what_the_command_computes(name: str) -> None:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}.json`")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    first, *others = [report(name, limit) for limit in LIMITS]
    assert cells[1] == f"{first['weightBytes'] / 1e9:.1f} GB"
    for part in first["kv"]["perToken"]:
        assert f"{part['bytes'] / 1e3:.1f} KB" in cells[2]
        assert part["until"] is None or f"up to {part['until']} tokens" in cells[2]
    found = [each["maxContext"] if each["fits"] else "does not fit" for each in (first, *others)]
    assert cells[3:] == [str(each) for each in found]
