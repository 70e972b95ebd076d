"""The context length that a folder states, under the names that families give it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.models.folder import ModelFolder, inspect_folder
from mlx_worker.models.stated import MOST_TOKENS, context_length, layer_count, tokenizer_context

if TYPE_CHECKING:
    from pathlib import Path

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024, "n_ctx": 512}, 1024),
        ({"n_ctx": 2048}, 2048),
        ({"max_seq_len": 32768}, 32768),
        ({"max_seq_length": 32768}, 32768),
        ({"max_sequence_length": 2048}, 2048),
        ({"seq_length": 8192}, 8192),
        ({"seq_len": 8192}, 8192),
        ({"model_max_length": 1048576}, 1048576),
        ({"context_length": 1024}, 1024),
        ({"max_target_positions": 448}, 448),
        ({"original_max_position_embeddings": 4096}, 4096),
        ({"rope_scaling": {"original_max_position_embeddings": 4096}}, 4096),
        ({"rope_scaling": YARN}, 32768),
        ({"rope_parameters": YARN}, 32768),
        ({"original_max_position_embeddings": 4096, "rope_scaling": {"factor": True}}, 4096),
        ({"max_position_embeddings": 40960, "rope_scaling": YARN}, 40960),
        ({"max_seq_len": 5, "text_config": {"max_position_embeddings": 77}}, 77),
        ({"text_config": {"n_positions": 77}}, 77),
        ({"llm_config": {"max_position_embeddings": 77}}, 77),
        ({"language_config": {"max_position_embeddings": 77}}, 77),
        ({"thinker_config": {"text_config": {"max_position_embeddings": 77}}}, 77),
        ({"max_position_embeddings": None, "n_positions": 77}, 77),
        ({"max_position_embeddings": 4096.0}, 4096),
        ({}, None),
        ({"sliding_window": 4096, "attention_window_size": 2048}, None),
        ({"vision_config": {"max_position_embeddings": 577}}, None),
        ({"max_position_embeddings": 0}, None),
        ({"max_position_embeddings": -1, "n_positions": True, "n_ctx": "2048"}, None),
        ({"max_position_embeddings": float("inf"), "n_ctx": float("nan")}, None),
        ({"max_position_embeddings": 1 << 30}, None),
        ({"text_config": 5, "rope_scaling": [1]}, None),
    ],
    ids=str,
)
def test_context_length_by_other_names(config: dict[str, Any], tokens: int | None) -> None:
    assert context_length(config) == tokens


@pytest.mark.parametrize(
    ("stated", "tokens"),
    [
        (2048, 2048),
        (2048.0, 2048),
        (MOST_TOKENS, MOST_TOKENS),
        (1000000000000000019884624838656, None),
        (1e30, None),
        (None, None),
    ],
)
def test_model_max_length_counts_where_it_is_a_length(stated: object, tokens: int | None) -> None:
    assert tokenizer_context({"model_max_length": stated}) == tokens


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"num_hidden_layers": 2}, 2),
        ({"n_layer": 3}, 3),
        ({"num_layers": 28, "num_hidden_layers": 56}, 28),
        ({"text_config": {"num_hidden_layers": 4}, "vision_config": {"n_layers": 9}}, 4),
        ({}, None),
    ],
    ids=str,
)
def test_layers_of_the_text_model(config: dict[str, Any], layers: int | None) -> None:
    assert layer_count(config) == layers


def folder_of(tokens: int | None, *, firm: bool) -> ModelFolder:
    return ModelFolder(None, "llama", tokens, 1, True, context_is_firm=firm)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "firm", "configured", "context", "warned"),
    [
        (4096, True, None, 4096, False),
        (4096, True, 100, 100, False),
        (4096, True, 8192, 4096, True),
        (2048, False, None, 2048, False),
        (2048, False, 8192, 8192, False),
        (None, False, 8192, 8192, False),
        (None, False, None, None, True),
    ],
)
def test_the_configured_context_length_counts(
    stated: int | None, firm: bool, configured: int | None, context: int | None, warned: bool
) -> None:
    folder = folder_of(stated, firm=firm)
    assert folder.context_with(configured) == context
    assert bool(folder.all_warnings(configured)) == warned


def test_a_folder_states_a_context_in_either_file(whole_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 2048}')
    found = inspect_folder(folder)
    assert (found.context_length, found.context_is_firm) == (2048, False)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert inspect_folder(folder).context_length is None
