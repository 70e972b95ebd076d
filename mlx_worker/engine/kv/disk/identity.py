"""What the bytes of one model's KV depend on, besides the tokens.

All calls belong to the thread that owns mlx. [child]
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_worker.engine.kv.disk.arrays import describe_layers
from mlx_worker.kv_disk.files.keys import KvIdentity
from mlx_worker.system.cpu_features import vector_features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


LIBRARIES: Final = ("MLX_", "CUBLAS_", "NVIDIA_TF32", "OPENBLAS_", "OMP_", "MKL_", "BLIS_")
"""Beginnings of the names of variables that mlx, CUDA and BLAS read."""

OWN: Final = "MLX_WORKER_"


def identity_of(
    model: Any, cache: Sequence[Any], weights: str, versions: Mapping[str, str]
) -> KvIdentity:
    """Return the identity of a model's KV. `cache` is a new cache of the model.

    `weights` names the weights by their content; `versions` has those of the imported packages.
    """
    return KvIdentity(
        settings=_settings(),
        weights=weights,
        mlx=versions["mlx"],
        mlx_lm=versions["mlx-lm"],
        layers=describe_layers(cache),
        dtype=_dtypes(model),
        device=device_of(
            mx.default_device().type.name,
            mx.device_info(),
            vector_features(),
            versions.get("blas", ""),
        ),
    )


def _settings() -> str:
    """Return the environment variables by which mlx and its libraries may compute otherwise.

    MLX_ENABLE_TF32 for example rounds the factors of a product.
    """
    settings = (
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(LIBRARIES) and not name.startswith(OWN)
    )
    return " ".join(sorted(settings))


def _dtypes(model: Any) -> str:
    """Return the floating-point types of the parameters, which decide that of the KV."""
    types = {array.dtype for _, array in tree_flatten(model.parameters())}
    names = (str(dtype) for dtype in types if mx.issubdtype(dtype, mx.floating))
    return " ".join(sorted(name.rpartition(".")[2] for name in names))


def device_of(kind: str, info: Mapping[str, object], features: Sequence[str], blas: str) -> str:
    """Return the kind and the architecture of the device that computes, and all of a CPU.

    `info` is what mlx says of the device. Another CPU, or the same one with other `features`, and
    another BLAS round otherwise: their KV would not be that of a run without a cache.
    """
    parts = [kind, str(info.get("architecture", ""))]
    if kind == "cpu":
        parts += [str(info.get("device_name", "")), *features]
    return " ".join(part for part in (*parts, blas) if part)
