"""What a process is judged by. What macOS answers is written from its headers: no Mac was there."""

import struct

import psutil

from mlx_worker.child.memory_footprint import footprint_of, phys_footprint

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
