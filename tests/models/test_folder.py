"""A whole model folder is described; half of one is refused, and the file at fault is named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.folder import inspect_folder
from tests.models.synthetic_gguf import ARGS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_folder, tmp_path / "model")


def change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def shard(folder: Path) -> None:
    """Give the single weights file a shard's name and an index that lists it."""
    name = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / name)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_whole_folder_is_described(folder: Path) -> None:
    found = inspect_folder(folder)
    assert found.path == folder
    assert found.model_type == "llama"
    assert found.context_length == ARGS.max_position_embeddings
    assert found.has_chat_template
    parameters = 64 * ARGS.vocab_size + 64 + 2 * (2 * 64**2 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64)
    assert found.weight_bytes == 4 * parameters


def test_shards_are_found_with_their_index(folder: Path) -> None:
    whole = inspect_folder(folder)
    shard(folder)
    assert inspect_folder(folder) == whole


def test_a_chat_template_may_be_a_file_of_its_own(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", chat_template=None)
    assert not inspect_folder(folder).has_chat_template
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert inspect_folder(folder).has_chat_template


def test_a_sentencepiece_tokenizer_will_do(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    (folder / "tokenizer_config.json").unlink()
    assert not inspect_folder(folder).has_chat_template


def test_what_the_tail_of_a_safetensors_file_loses_is_noticed(folder: Path) -> None:
    """One byte is enough."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadModelFolder, match=r"model\.safetensors is damaged: its header"):
        inspect_folder(folder)


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def holds(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return damage


HUGE = (1 << 60).to_bytes(8, "little")
NOT_JSON = (4).to_bytes(8, "little") + b"{]}x"
NO_OFFSETS = (8).to_bytes(8, "little") + b'{"a":{}}'


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (shutil.rmtree, "has no config.json"),
        (gone("config.json"), "has no config.json"),
        (cut("config.json"), "config.json is no JSON object"),
        (holds("config.json", b""), "config.json is no JSON object"),
        (holds("config.json", b"[]"), "config.json is no JSON object"),
        (holds("config.json", b"{}"), "config.json names no model_type"),
        (holds("config.json", b'{"model_type": 3}'), "config.json names no model_type"),
        (gone("model.safetensors"), "has no model*.safetensors"),
        (holds("model.safetensors", b""), "model.safetensors is truncated"),
        (holds("model.safetensors", b"12345"), "model.safetensors is truncated"),
        (holds("model.safetensors", b"version https://git-lfs"), "no safetensors file"),
        (holds("model.safetensors", HUGE), "model.safetensors is truncated"),
        (holds("model.safetensors", NOT_JSON), "model.safetensors has a broken header"),
        (holds("model.safetensors", NO_OFFSETS), "model.safetensors has a broken header"),
        (cut("model.safetensors"), "model.safetensors is damaged"),
        (gone("tokenizer.json"), "has neither tokenizer.json nor another vocabulary"),
        (cut("tokenizer.json"), "tokenizer.json is no JSON"),
        (cut("tokenizer_config.json"), "tokenizer_config.json is no JSON object"),
    ],
)
def test_half_a_folder_is_refused_in_one_line(
    damage: Callable[[Path], None], complaint: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(BadModelFolder) as caught:
        inspect_folder(folder)
    assert complaint in caught.value.message
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    """A folder in the place of the weights: as unreadable for root as for anybody."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(BadModelFolder, match=r"model\.safetensors is a folder, not a regular file"):
        inspect_folder(folder)
