"""Which code this process runs, and whether the disk still has that code.

Versions are those of the modules in memory, because package metadata is read from the disk and may
be newer than what was imported. Some modules (a model's own, a tokenizer's) are imported only when
a model is loaded: where a package was replaced in between, the process would mix two versions of
the package, and must not serve. A spare process may wait for days between the two. [child]
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import mlx_worker
from mlx_worker.errors import InferenceError
from mlx_worker.system.loaded_blas import blas_name
from mlx_worker.system.package_code import child_code, child_files, digest_of

_PACKAGES: Final = ("mlx_worker", "mlx_lm", "mlx", "transformers", "tokenizers", "llguidance")

_READ_WHOLE: Final = frozenset({"mlx_worker", "mlx_lm"})
"""Packages whose sources are compared by content; of others, states of the top folder's files."""

_FileState = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class _Package:
    """Hold the state of a package on the disk: its folder, its files and a digest."""

    root: Path
    files: tuple[_FileState, ...]
    digest: str


class ImportedCode:
    """Hold the state of packages at the time of creation, which must precede their import."""

    def __init__(self) -> None:
        self._own = child_code()
        self._packages = {name: _look_at(name, _root_of(name)) for name in _PACKAGES}

    def versions(self) -> dict[str, str]:
        """Return the versions of imported packages, of Python, and the device."""
        import llguidance  # noqa: PLC0415  (seconds of imports, which the snapshot must precede)
        import mlx.core as mx  # noqa: PLC0415
        import mlx_lm  # noqa: PLC0415
        import tokenizers  # noqa: PLC0415
        import transformers  # noqa: PLC0415

        return {
            "mlx-worker": self._own,
            "mlx": mx.__version__,  # type: ignore[attr-defined]  # its stub hides this
            "mlx-lm": f"{mlx_lm.__version__} ({self._packages['mlx_lm'].digest})",
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "llguidance": llguidance.__version__,
            "python": platform.python_version(),
            "device": str(mx.default_device()),
            **_blas(mx.default_device()),
        }

    def check_unchanged(self) -> None:
        """Raise InferenceError if the code on the disk is not the code of this process."""
        for name, package in self._packages.items():
            now = _look_at(name, package.root, known=package)
            if now.digest != package.digest:
                raise InferenceError(
                    f"the package {name} was replaced while this process ran; the model is loaded"
                    " in a new process"
                )


def _blas(device: object) -> dict[str, str]:
    """Return the BLAS of a Linux CPU, whose rounding answers depend on; elsewhere nothing."""
    return {"blas": blas_name()} if sys.platform == "linux" and "cpu" in str(device) else {}


def _root_of(name: str) -> Path:
    """Return a package's folder, without importing the package."""
    if name == "mlx_worker":
        return Path(mlx_worker.__file__).parent
    spec = find_spec(name)
    assert spec is not None, f"{name} is installed"
    assert spec.submodule_search_locations is not None, f"{name} is a package"
    return Path(next(iter(spec.submodule_search_locations)))


def _look_at(name: str, root: Path, known: _Package | None = None) -> _Package:
    """Return the state of a package; contents are read only where states of files changed."""
    paths = _files_of(name, root)
    files = tuple(_state_of(path) for path in paths)
    if known is not None and files == known.files:
        return known
    if name in _READ_WHOLE:
        return _Package(root, files, digest_of(root, paths))
    return _Package(root, files, repr(files))


def _files_of(name: str, root: Path) -> list[Path]:
    if name == "mlx_worker":
        return child_files(root)
    if name == "mlx_lm":
        return sorted(root.rglob("*.py"))
    return sorted(path for path in root.glob("*") if path.suffix in (".py", ".so"))


def _state_of(path: Path) -> _FileState:
    stat = path.stat()
    return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns
