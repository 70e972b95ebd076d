"""What mlx said of devices that the tests do not have."""

from __future__ import annotations

from typing import Any, Final

H100: Final[dict[str, Any]] = {
    "total_memory": 85_520_809_984,
    "free_memory": 84_465_090_560,
    "compute_capability_minor": 0,
    "compute_capability_major": 9,
    "pci_bus_id": "0000:00:06.0",
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "architecture": "sm_90",
    "device_name": "NVIDIA H100 80GB HBM3",
}
"""`mx.device_info()` of mlx 0.32.4 with CUDA 13, on 2026-11-27; the UUID is another."""
