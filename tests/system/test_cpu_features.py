"""The vector instructions of a CPU, as Linux lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.system.cpu_features import vector_features

if TYPE_CHECKING:
    from pathlib import Path

X86 = "model name\t: AMD EPYC\nflags\t\t: fpu sse2 avx2 mmx fma avx\nflags\t\t: avx512f\n"
ARM = "Features\t: fp asimd crc32 sve i8mm\n"


@pytest.mark.parametrize(
    ("text", "features"),
    [(X86, ["avx", "avx2", "fma", "sse2"]), (ARM, ["asimd", "i8mm", "sve"]), ("", [])],
)
def test_vector_features_are_those_of_the_first_cpu(
    text: str, features: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert vector_features(tmp_path / "cpuinfo") == features


def test_a_system_without_the_file_lists_no_features(tmp_path: Path) -> None:
    assert vector_features(tmp_path / "missing") == []
