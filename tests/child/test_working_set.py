"""What mlx says of a device's working set, on Metal and elsewhere."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from mlx_worker.child.working_set import working_set


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


def test_a_cpu_recommends_nothing() -> None:
    assert mx.metal.is_available() or working_set(mx.device_info()) is None
