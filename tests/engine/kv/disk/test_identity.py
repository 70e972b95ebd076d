"""The KV of one CPU is not that of another: the identity names the CPU and its instructions."""

from __future__ import annotations

import pytest

from mlx_worker.engine.kv.disk.identity import device_of

CPU = {"architecture": "x86_64", "device_name": "AMD EPYC"}
GPU = {"architecture": "applegpu_g15s", "device_name": "Apple M3 Max"}


@pytest.mark.parametrize(
    ("other", "features", "blas"),
    [
        (CPU | {"device_name": "Intel Xeon"}, ["avx2"], "b"),
        (CPU | {"architecture": "arm64"}, ["avx2"], "b"),
        (CPU, ["avx2", "avx512f"], "b"),
        (CPU, ["avx2"], "c"),
    ],
)
def test_device_of_another_cpu_is_another(
    other: dict[str, str], features: list[str], blas: str
) -> None:
    assert device_of("cpu", CPU, ["avx2"], "b") != device_of("cpu", other, features, blas)


def test_device_of_a_gpu_is_its_architecture() -> None:
    assert device_of("gpu", GPU, [], "") == "gpu applegpu_g15s"
    assert device_of("gpu", GPU, ["avx2"], "") == "gpu applegpu_g15s"
