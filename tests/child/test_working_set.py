"""What mlx says of a device's memory: on Metal, on CUDA, on a CPU."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from mlx_worker.child.working_set import has_own_memory, working_set
from tests.child.devices import H100


@pytest.mark.parametrize(
    ("device", "size"),
    [
        ({"max_recommended_working_set_size": 11453251584, "memory_size": 1 << 34}, 11453251584),
        ({"max_recommended_working_set_size": 0}, None),
        ({"device_name": "AMD EPYC"}, None),
    ],
)
def test_metals_recommendation_is_taken(device: dict[str, Any], size: int | None) -> None:
    assert working_set(device) == size
    assert not has_own_memory(device)


def test_of_a_cuda_devices_memory_mlx_takes_95_percent() -> None:
    """`memory_limit_` in mlx/backend/cuda/allocator.cpp."""
    assert working_set(H100) == 81_244_769_484
    assert has_own_memory(H100)


def test_a_cpu_recommends_nothing() -> None:
    assert mx.metal.is_available() or working_set(mx.device_info()) is None
