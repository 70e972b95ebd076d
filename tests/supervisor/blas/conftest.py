"""Libraries that a test compiles, and a cache folder of the test's own."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HAS_REFERENCE_BLAS = sys.platform == "linux" and any(
    found.metadata["Name"] == "mlx-cpu" for found in metadata.distributions()
)


@pytest.fixture(autouse=True)
def _only_on_a_linux_cpu() -> None:
    if not HAS_REFERENCE_BLAS:
        pytest.skip("only mlx's CPU build for Linux brings the reference BLAS")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def library_of(tmp_path: Path) -> Callable[[str], Path]:
    """Compile the source of a library with a `cblas_sgemm` of its own."""

    def compiled(body: str) -> Path:
        file = tmp_path / "other.so"
        source = f'#include <cstdlib>\n#include <unistd.h>\nextern "C" {{ {body} }}'
        subprocess.run(
            ["g++", "-x", "c++", "-fPIC", "-shared", "-o", str(file), "-"],
            input=source,
            text=True,
            check=True,
        )
        return file

    return compiled
