"""The import rules hold: who may import whom, and what a process never loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.rounds import variants

ROOT = Path(__file__).parents[2]

REPORT = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
print(*sorted(name for name in sys.modules if name.startswith("mlx_worker.")))
"""


def loaded_by(module: str) -> set[str]:
    """The top-level packages, and the rooms of this one, in a process that imports it."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, module],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.full
def test_the_import_contracts_are_kept() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint_imports, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    "module", ["mlx_worker.server", "mlx_worker.cli.main", "mlx_worker.health"]
)
def test_the_front_never_loads_mlx_nor_the_childs_half(module: str) -> None:
    loaded = loaded_by(module)
    assert module in loaded
    never = {"mlx", "mlx_lm", "transformers", "torch", "numpy"}
    rooms = {"mlx_worker.child", "mlx_worker.engine", "mlx_worker.inference", "mlx_worker.cache"}
    assert loaded & (never | rooms) == set()


@pytest.mark.parametrize(
    "module",
    variants(["mlx_worker.engine.engine", "mlx_worker.child.worker"], ["mlx_worker.child.worker"]),
)
def test_the_child_never_loads_http_nor_the_fronts_half(module: str) -> None:
    loaded = loaded_by(module)
    assert module in loaded
    never = {"aiohttp", "uvloop"}
    rooms = {"mlx_worker.server", "mlx_worker.api", "mlx_worker.supervisor", "mlx_worker.health"}
    assert loaded & (never | rooms) == set()


def test_a_child_that_has_just_begun_has_loaded_nothing_heavy() -> None:
    """It reads its pipe first: even one that is still importing ends with its front."""
    assert loaded_by("mlx_worker.child.__main__") & {"mlx", "mlx_lm", "transformers"} == set()


EXECUTING = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}
"""Modules whose data can name functions to be called."""


def test_no_process_reads_data_that_can_name_functions() -> None:
    named = re.compile("|".join(sorted(EXECUTING)).encode())
    for file in sorted((ROOT / "mlx_worker").rglob("*.py")):
        source = file.read_bytes()
        if not named.search(source):
            continue
        for node in ast.walk(ast.parse(source)):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not EXECUTING & {name.partition(".")[0] for name in names}, file


def test_the_helper_of_grammars_loads_nothing_of_mlx() -> None:
    """Its start would take a processor for a second, beside streams."""
    loaded = loaded_by("mlx_worker.grammar_trial.helper")
    assert loaded & {"mlx", "mlx_lm", "transformers", "mlx_worker.engine"} == set()


def test_the_process_that_parses_loads_nothing_of_http() -> None:
    loaded = loaded_by("mlx_worker.api.parsing.parser_process")
    assert loaded & {"aiohttp", "uvloop", "mlx", "mlx_lm"} == set()


def test_a_class_name_is_defined_once() -> None:
    """Who looks for a class by its name finds that class."""
    places = defaultdict(list)
    for file in sorted((ROOT / "mlx_worker").rglob("*.py")):
        for part in ast.walk(ast.parse(file.read_text())):
            if isinstance(part, ast.ClassDef):
                places[part.name].append(str(file.relative_to(ROOT)))
    assert len(places) > 600
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
