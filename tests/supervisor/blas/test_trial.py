"""A library that multiplies wrong, crashes, hangs or multiplies nothing is not trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.supervisor.blas.child_blas import OWN_BLAS, NoFastBlas
from mlx_worker.supervisor.blas.trial import measure, tried

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SGEMM = (
    "void cblas_sgemm(int, int, int, int m, int n, int, float, const float*, int, const float*,"
    " int, float, float* c, int ldc)"
)
WRONG = f"{SGEMM} {{ for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) c[i*ldc+j] = 1; }}"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (WRONG, "multiplies wrong"),
        pytest.param(f"{SGEMM} {{ abort(); }}", "test product failed", marks=pytest.mark.full),
        pytest.param(f"{SGEMM} {{ pause(); }}", "did not end", marks=pytest.mark.full),
        pytest.param("int other;", "cannot be preloaded, or has no", marks=pytest.mark.full),
    ],
)
def test_a_library_that_computes_nothing_right_is_refused(
    library_of: Callable[[str], Path], body: str, why: str
) -> None:
    with pytest.raises(NoFastBlas, match=why):
        tried(library_of(body), {}, seconds=3 if "pause" in body else 30)


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoFastBlas, match="No such file"):
        tried(tmp_path / "nothing.so", {})
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(NoFastBlas, match="cannot be preloaded"):
        tried(text, {})


def test_mlxs_own_blas_is_right_and_named() -> None:
    facts = measure(OWN_BLAS)
    assert (facts.library, facts.name) == ("", "mlx's own")
    assert facts.error <= 1
    assert facts.gflops > 0
