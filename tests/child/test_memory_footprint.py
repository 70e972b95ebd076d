"""What a process is judged by. What macOS answers is written from its headers: no Mac was there."""

import struct

import mlx.core as mx
import psutil

from mlx_worker.child.memory_footprint import footprint_of, on_device_of, phys_footprint
from tests.child.devices import H100

UUID = bytes(range(16))


def test_phys_footprint_is_the_eighth_number_behind_the_uuid() -> None:
    info = UUID + struct.pack("=18Q", *range(100, 118))
    assert phys_footprint(info) == 107


def test_elsewhere_it_is_the_resident_set() -> None:
    process = psutil.Process()
    held = bytearray(64 << 20)
    before = footprint_of(process, "linux")()
    del held
    assert before > 64 << 20


def test_memory_of_a_gpus_own_counts_where_it_is_more_than_the_resident_set() -> None:
    process = psutil.Process()
    assert footprint_of(process, "linux", lambda: 1 << 50)() == 1 << 50
    assert 0 < footprint_of(process, "linux", lambda: 0)() < 1 << 50


def test_a_gpus_own_memory_has_arrays_and_what_mlx_keeps_for_reuse() -> None:
    counted = on_device_of(H100)
    assert counted is not None
    mx.clear_cache()  # else the array may come from what is kept, and the sum stay
    before = counted()
    held = mx.zeros(1 << 20, dtype=mx.uint8)
    mx.eval(held)
    assert counted() >= before + (1 << 20)
    assert counted() == mx.get_active_memory() + mx.get_cache_memory()


def test_the_system_counts_what_is_in_its_own_memory() -> None:
    assert on_device_of({"device_name": "AMD EPYC"}) is None
    assert on_device_of({"max_recommended_working_set_size": 1 << 33}) is None
