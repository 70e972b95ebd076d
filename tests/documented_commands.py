"""The shell commands that the documents show, and how each is known to work.

A command in a block is run by `tests/front/test_documents.py`, or by the test that `RUN_BY` names,
or a comment behind it says why no test runs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"

BLOCK: Final = re.compile(
    r"^( *)```(sh|bash|shell|console)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL
)
MARK: Final = re.compile(r"\s# (macOS only|not run by a test\b[^:]*: \S.*)$")
"""The comment of a command that no test runs; on a line of its own it marks the whole block."""
COMMENT: Final = re.compile(r"\s+# .*$")

RUN_BY: Final = {
    "python3 -m venv .venv && .venv/bin/pip install -q .": "tests/cli/test_demo.py",
    "export PATH=$PWD/.venv/bin:$PATH": "tests/cli/test_demo.py",
    ".venv/bin/mlx-worker demo": "tests/cli/test_demo.py",
    "pip wheel --no-deps -w dist .": "tests/repository/test_wheel.py",
    "mlx-worker demo --once": "tests/cli/test_demo.py",
    ".venv/bin/mlx-worker serve": "tests/end_to_end/test_node.py",
    "mlx-worker fits ": "tests/repository/test_which_model_fits.py",
    "mlx-worker bench": "tests/bench",
    "mlx-worker cancel ": "tests/front/test_commands.py",
    ".venv/bin/python -m tests.tools.generated": "tests/repository/test_generated.py",
    ".venv/bin/python tests/test_public_names.py": "tests/test_public_names.py",
    "python -m tests.tools.release": "tests/repository/test_release.py",
    "tox -e wheel": ".github/workflows/release.yml",
    "python3 -m venv .venv": "tox.ini",
    ".venv/bin/pip install -q": "tox.ini",
    ".venv/bin/ruff ": "tox.ini",
    ".venv/bin/python -m pytest -q tests/repository": "tox.ini",
    "python -m tests.tools.exactness": "tests/fidelity/test_exactness.py",
    "python -m tests.tools.speculation_gain": "tests/engine/speculation/test_gain.py",
}
"""Beginnings of commands, with the test that runs such commands, or the file whose CI jobs do."""

GENERATED: Final = frozenset({DOCS / "how-to" / "clients.md"})
"""Pages of settings that `tox -e clients` runs with the clients themselves."""

DOCUMENTS: Final = [
    path
    for path in (ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted(DOCS.rglob("*.md")))
    if path not in GENERATED
]


@dataclass(frozen=True)
class Shown:
    """A command of a document, without its comment; `marked` where no test is to run it."""

    page: str
    line: str
    marked: bool


def shown_in(path: Path) -> Iterator[list[Shown]]:
    """Yield the commands of each block of a document."""
    page = path.name
    for _, kind, text in BLOCK.findall(path.read_text(encoding="utf-8")):
        lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
        if kind == "console" and any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield [
            Shown(page, COMMENT.sub("", line), bool(MARK.search(line)))
            for line in lines
            if line and not line.startswith("#")
        ]


def run_elsewhere(line: str) -> str | None:
    """Return the test that runs such a command; None if there is none."""
    return next((test for known, test in RUN_BY.items() if line.startswith(known)), None)
