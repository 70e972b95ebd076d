"""Whether the BLAS of this process multiplies right, and how fast.

    python -m mlx_worker.child.blas_trial            (with the library in LD_PRELOAD)

Products of mlx are compared with the sums of mlx's own elementwise kernels, which call no BLAS. A
process of its own: a library that crashes or hangs takes nothing with it. [child]
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from typing import Any, Final

import mlx.core as mx
import msgspec

from mlx_worker.system.loaded_blas import blas_library, blas_name, keep_preload_from_helpers
from mlx_worker.wire.blas_facts import BlasFacts

PREFIX: Final = "blas "
"""What the line of the result begins with."""

LONGEST: Final = 60
"""Seconds after which the process ends itself: its parent may have ended."""

SHAPES: Final = (
    *((1, 576, 192), (1, 33, 1000), (2, 576, 192), (3, 5, 7), (4, 64, 96)),
    *((8, 576, 130), (70, 129, 65)),
)
"""(m, k, n): one row as in decoding, few rows as in a batch, and many as in a prompt."""

ALLOWED: Final = {mx.float32: 1e-5, mx.float64: 1e-13}
"""The difference that rounding makes at most, as a share of the largest sum, with much to spare."""

SHARED: Final = (320, 512, 384)
"""A product that is shared among threads."""

TIMED: Final = 512


def largest_error() -> float:
    """Return the largest difference of any product, as a share of what is allowed."""
    mx.random.seed(1)
    errors = [
        _error_of(shape, dtype, transposed)
        for shape in SHAPES
        for dtype in ALLOWED
        for transposed in itertools.product((False, True), (False, True))
    ]
    return max(*errors, _error_of_shared(), _error_of_sum())


def gflops() -> float:
    """Return the speed of a square product in float32, the best of three."""
    a, b = _matrix(TIMED, TIMED, mx.float32), _matrix(TIMED, TIMED, mx.float32)
    mx.eval(a @ b)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        mx.eval(a @ b)
        best = min(best, time.perf_counter() - start)
    return 2 * TIMED**3 / best / 1e9


def _error_of(shape: tuple[int, int, int], dtype: mx.Dtype, transposed: tuple[bool, bool]) -> float:
    m, k, n = shape
    a = _matrix(k, m, dtype).T if transposed[0] else _matrix(m, k, dtype)
    b = _matrix(n, k, dtype).T if transposed[1] else _matrix(k, n, dtype)
    return _difference(a @ b, _summed(a, b), dtype)


def _error_of_shared() -> float:
    m, k, n = SHARED
    a, b = _matrix(m, k, mx.float32), _matrix(k, n, mx.float32)
    rows = slice(None, None, m // 4)
    return _difference((a @ b)[rows], _summed(a[rows], b), mx.float32)


def _error_of_sum() -> float:
    """Return the error of a product that is added to a matrix, in a batch of three."""
    a = mx.random.normal((3, 9, 40))
    b = mx.random.normal((3, 40, 21))
    c = mx.random.normal((3, 9, 21))
    added = mx.addmm(c, a, b, alpha=0.5, beta=2.0)
    summed = mx.stack([_summed(x, y) for x, y in zip(a, b, strict=True)])
    return _difference(added, 0.5 * summed + 2.0 * c, mx.float32)


def _matrix(rows: int, columns: int, dtype: mx.Dtype) -> mx.array:
    matrix = mx.random.normal((rows, columns)).astype(dtype)
    mx.eval(matrix)
    return matrix


def _summed(a: mx.array, b: mx.array) -> mx.array:
    """Return the product as a sum of elementwise products."""
    return mx.sum(a[:, :, None] * b[None], axis=1)


def _difference(product: mx.array, expected: mx.array, dtype: mx.Dtype) -> float:
    worst: Any = mx.max(mx.abs(product - expected)) / mx.max(mx.abs(expected))
    error = float(worst.item()) / ALLOWED[dtype]
    return error if error == error else float("inf")  # noqa: PLR0124  (NaN is no result)


def main() -> int:
    """Print the facts in one line."""
    signal.alarm(LONGEST)
    keep_preload_from_helpers()
    if mx.default_device().type == mx.DeviceType.gpu:
        facts = BlasFacts(str(mx.default_device()), "", "", 0.0, 0.0)
    else:
        library = blas_library()
        facts = BlasFacts(
            str(mx.default_device()),
            str(library or ""),
            blas_name(),
            largest_error(),
            round(gflops(), 1),
        )
    sys.stdout.write(f"\n{PREFIX}{msgspec.json.encode(facts).decode()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
