"""Name the code that a model's process runs, so that a replaced package does not go unseen.

The front asks once, at its start; a process asks before it imports anything. Where the two differ,
the package was replaced while the node ran. [both]
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import mlx_worker

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHILD_HALF: Final = (
    "child",
    "engine",
    "grammar_trial",
    "kv_disk",
    "limits.py",
    "models",
    "wire",
)
"""Packages and modules whose code decides what a model says.

What a child imports beside them formats errors and log lines, or speaks to the system.
"""


def child_files(root: Path) -> list[Path]:
    """Return the source files of the child's half of this package, installed at `root`."""
    return [path for name in _CHILD_HALF for path in _sources(root / name)]


def _sources(path: Path) -> list[Path]:
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def digest_of(root: Path, files: Iterable[Path]) -> str:
    """Return 12 hex digits over the names and contents of source files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def child_code() -> str:
    """Return the version of this package and the digest of the child's half on the disk."""
    root = Path(mlx_worker.__file__).parent
    return f"{mlx_worker.__version__} ({digest_of(root, child_files(root))})"
