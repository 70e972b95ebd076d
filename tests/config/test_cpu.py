"""The section `[cpu]` and a model's `dtype`: what they may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_worker.config.load import parse_config
from mlx_worker.config.problems import find_problems
from mlx_worker.config.schema import Config, CpuConfig
from mlx_worker.errors import ConfigError

MODEL = '[[models]]\nid = "a"\npath = "p"\n'
FOLDER = Path("/etc/mlx")


def parsed(text: str) -> Config:
    return parse_config(text + MODEL, source="node.toml", folder=FOLDER)


def test_defaults_choose_for_themselves() -> None:
    config = parsed("")
    assert config.cpu == CpuConfig(blas="auto", threads=None)
    assert config.models[0].dtype == "auto"


def test_a_library_is_relative_to_the_file_and_a_word_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIBS", "/opt/mkl")
    assert parsed('[cpu]\nblas = "bundled"\n').cpu.blas == "bundled"
    assert parsed('[cpu]\nblas = "./libblas.so"\n').cpu.blas == "/etc/mlx/libblas.so"
    assert parsed('[cpu]\nblas = "$LIBS/libmkl_rt.so"\n').cpu.blas == "/opt/mkl/libmkl_rt.so"


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ('[cpu]\nblas = "openblas"\n', "cpu.blas", "neither 'auto', 'bundled' nor a path"),
        ('[cpu]\nblas = "/a:b/lib.so"\n', "cpu.blas", "':' in its path"),
        ('[cpu]\nblas = "/a b/lib.so"\n', "cpu.blas", "' ' in its path"),
        ("[cpu]\nthreads = 0\n", "cpu.threads", ">= 1"),
        ("[cpu]\nthread = 2\n", "cpu.thread", "did you mean 'threads'?"),
    ],
)
def test_a_wrong_value_is_named(text: str, key: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert key in str(caught.value)
    assert why in str(caught.value)
    file = tmp_path / "node.toml"
    file.write_text(text + MODEL)
    assert [problem.param for problem in find_problems(file).problems] == [key]


def test_another_type_of_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="dtype"):
        parsed(MODEL.replace('"a"', '"b"') + 'dtype = "float16"\n')
