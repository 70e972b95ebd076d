"""A node on a Linux CPU that multiplies with numpy's OpenBLAS, in a cache folder of its own."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.processes import running_node

HAS_REFERENCE_BLAS = sys.platform == "linux" and any(
    found.metadata["Name"] == "mlx-cpu" for found in metadata.distributions()
)


@pytest.mark.full
@pytest.mark.skipif(not HAS_REFERENCE_BLAS, reason="mlx's CPU build for Linux only")
def test_a_node_serves_with_it_and_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "node"
    folder.mkdir()
    with running_node(folder, {"tiny": tiny}, blas="auto", spares=1) as node:
        node.wait_until_ready()
        model = node.model("tiny")
        assert model["blas"].startswith("OpenBLAS")
        assert model["dtype"] == "float32"
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        answer = node.ask("/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        mapped = {Path(each.path).name for each in node.child("tiny").memory_maps()}
        assert any(name.startswith("shim-") for name in mapped)
    assert sum("BLAS" in line for line in node.log) == 1
