"""The check of a folder against mlx_lm itself: the same folders are taken and refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import mlx_lm
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers.models.auto.tokenization_auto import (
    TOKENIZER_MAPPING_NAMES,
    tokenizer_class_from_name,
)

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.folder import inspect_folder
from mlx_worker.models.tokenizer_files import WITHOUT_FILES, is_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[Path], None]

CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer_config.json"
GENERATION: Final = "generation_config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_folder, tmp_path / "model")


def mlx_lm_loads(folder: Path) -> bool:
    try:
        mlx_lm.load(str(folder), lazy=True)
    except Exception:  # noqa: BLE001  (mlx_lm and transformers raise nearly anything)
        return False
    return True


def with_members(name: str, members: str) -> Change:
    """Write more members behind those of a JSON object."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text().rstrip().removesuffix("}")
        (folder / name).write_text(text + ", " + members + "}")

    return change


def holding(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def encoded(name: str, encoding: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text((folder / name).read_text(), encoding=encoding)

    return change


def longer(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"\0" * 4096)


def indexed(**files: str) -> Change:
    """Write an index of these arrays and files; `__` stands for a dot."""
    listed = {name.replace("__", "."): file for name, file in files.items()}
    return holding(INDEX, json.dumps({"metadata": {}, "weight_map": listed}).encode())


def arrays_of(folder: Path) -> dict[str, Any]:
    with safe_open(folder / WEIGHTS, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def split(folder: Path, *, shards: int, lost: Callable[[str], bool], index: bool = True) -> None:
    """Make numbered shards of the weights; those of the arrays that are `lost` are not there."""
    arrays = arrays_of(folder)
    (folder / WEIGHTS).unlink()
    kept = {name: array for name, array in arrays.items() if not lost(name)}
    here, away = (f"model-{number:05}-of-{shards:05}.safetensors" for number in (1, shards))
    if kept:
        save_file(kept, folder / here, {"format": "mlx"})
    if index:
        listed = {name: here if name in kept else away for name in arrays}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def half(lost: Callable[[str], bool], *, index: bool = True) -> Change:
    return lambda folder: split(folder, shards=3, lost=lost, index=index)


def no_weights_lost(shards: int) -> Change:
    return lambda folder: split(folder, shards=shards, lost=lambda _: False, index=False)


def parts_of_a_vocabulary(*names: str, class_name: str = "GPT2Tokenizer") -> Change:
    """Replace tokenizer.json by the files that older tokenizers are built from."""
    content = {
        "vocab.json": json.dumps({"<unk>": 0, "a": 1, "b": 2, "ab": 3}),
        "merges.txt": "#version: 0.2\na b\n",
    }

    def change(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / TOKENIZER).write_text(json.dumps({"tokenizer_class": class_name}))
        for name in names:
            (folder / name).write_text(content[name])

    return change


def versioned_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.4.0.0.json")
    names = ["tokenizer.4.0.0.json", "tokenizer.json"]
    with_members(TOKENIZER, f'"fast_tokenizer_files": {json.dumps(names)}')(folder)


TOWER: Final = "model-00002-of-00002.safetensors"

LOADED: Final[dict[str, Change]] = {
    "infinity": with_members(CONFIG, '"time_step_limit": [0.0, Infinity]'),
    "minus-infinity": with_members(CONFIG, '"a": {"b": [-Infinity]}, "c": NaN'),
    "infinite-tokenizer": with_members(TOKENIZER, '"x": [Infinity, -Infinity, {"y": NaN}]'),
    "infinite-generation": holding(GENERATION, b'{"repetition_penalty": Infinity}'),
    "broken-generation": holding(GENERATION, b"{ broken"),
    "marked-generation": holding(GENERATION, b"\xef\xbb\xbf{}"),
    "infinite-processor": holding("preprocessor_config.json", b'{"x": NaN'),
    "half-a-surrogate": with_members(CONFIG, '"x": "\\ud800"'),
    "huge-number": with_members(CONFIG, f'"n": {10**40}'),
    "same-key-twice": with_members(CONFIG, '"model_type": "llama"'),
    "longer-weights": longer,
    "empty-weights-beside": holding("model-x.safetensors", (2).to_bytes(8, "little") + b"{}"),
    "stale-index": indexed(model__norm__weight="model-00001-of-00002.safetensors"),
    "index-of-a-tower": indexed(model__norm__weight=WEIGHTS, vision_tower__a__weight=TOWER),
    "index-of-one-name": indexed(model__layers__0__self_attn__rotary__weight=WEIGHTS),
    "index-of-present": indexed(model__norm__weight=TOWER, model__embed_tokens__weight=WEIGHTS),
    "index-of-more-layers": indexed(
        model__norm__weight=WEIGHTS, model__layers__7__mlp__up_proj__weight=TOWER
    ),
    "index-of-a-tied-head": indexed(model__norm__weight=WEIGHTS, lm_head__weight=TOWER),
    "index-broken": holding(INDEX, b"{ broken"),
    "index-empty": holding(INDEX, b""),
    "index-list": holding(INDEX, b"[]"),
    "index-without-map": holding(INDEX, b"{}"),
    "index-of-numbers": holding(INDEX, b'{"weight_map": {"a": 1, "b": null}}'),
    "index-not-utf-8": holding(INDEX, b'{"\xe9": 1}'),
    "shard-of-one": no_weights_lost(1),
    "shard-of-five": no_weights_lost(5),
    "vocab-and-merges": parts_of_a_vocabulary("vocab.json", "merges.txt"),
    "bytes-for-tokens": parts_of_a_vocabulary(class_name="ByT5Tokenizer"),
    "versioned-tokenizer": versioned_tokenizer,
    "no-tokenizer-config": lambda folder: (folder / TOKENIZER).unlink(),
}

REFUSED: Final[dict[str, Change]] = {
    "marked-config": encoded(CONFIG, "utf-8-sig"),
    "utf-16-config": encoded(CONFIG, "utf-16"),
    "latin-config": holding(CONFIG, b'{"model_type": "llama", "x": "\xe9"}'),
    "two-values": with_members(CONFIG, '"x": 1} {"y": 2'),
    "comma-too-many": with_members(CONFIG, ""),
    "marked-tokenizer": encoded(TOKENIZER, "utf-8-sig"),
    "listed-tokenizer": holding(TOKENIZER, b"[]"),
    "listed-generation": holding(GENERATION, b"[]"),
    "null-generation": holding(GENERATION, b"null"),
    "latin-generation": holding(GENERATION, b'{"x": "\xe9"}'),
    "empty-file-beside": holding("model-x.safetensors", b""),
    "pointer-beside": holding("model-x.safetensors", b"version https://git-lfs.github.com/spec/"),
    "infinite-vocabulary": with_members("tokenizer.json", '"x": NaN'),
    "no-vocabulary": lambda folder: (folder / "tokenizer.json").unlink(),
    "half-of-the-layers": half(lambda name: ".layers.1." in name),
    "half-of-a-layer": half(lambda name: ".layers.1.mlp." in name),
    "all-but-embeddings": half(lambda name: ".layers." in name or "norm" in name),
    "embeddings-lost": half(lambda name: "embed_tokens" in name),
    "norm-lost": half(lambda name: name == "model.norm.weight"),
    "layers-lost-no-index": half(lambda name: ".layers.0." in name, index=False),
    "all-lost": half(lambda _: True),
}


@pytest.mark.parametrize("change", LOADED.values(), ids=LOADED)
def test_what_mlx_lm_loads_is_taken(change: Change, folder: Path) -> None:
    change(folder)
    assert mlx_lm_loads(folder)
    assert inspect_folder(folder).model_type == "llama"


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_mlx_lm_refuses_is_refused(change: Change, folder: Path) -> None:
    change(folder)
    assert not mlx_lm_loads(folder)
    with pytest.raises(BadModelFolder) as caught:
        inspect_folder(folder)
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stale-index", "lists model-00001-of-00002.safetensors, not in the folder"),
        ("index-of-a-tower", "lists model-00002-of-00002.safetensors, not in the folder"),
        ("index-broken", "model.safetensors.index.json cannot be read"),
        ("index-list", "model.safetensors.index.json cannot be read"),
        ("index-without-map", "has no weight_map"),
        ("shard-of-five", "model-00002-of-00005.safetensors and 3 more is not in the folder"),
        ("longer-weights", "model.safetensors is 4096 bytes longer than its header says"),
        ("broken-generation", "generation_config.json is no JSON and is not read"),
    ],
)
def test_what_deserves_a_look_is_a_warning(name: str, said: str, folder: Path) -> None:
    LOADED[name](folder)
    (warning,) = inspect_folder(folder).warnings
    assert said in warning


def test_a_whole_folder_has_no_warning(folder: Path) -> None:
    split(folder, shards=1, lost=lambda _: False)
    found = inspect_folder(folder)
    assert (found.warnings, found.all_warnings(None)) == ((), ())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("half-of-the-layers", "lacks model-00003-of-00003.safetensors, which"),
        ("half-of-a-layer", "model.layers.1.mlp.down_proj.weight and 2 more is in no file"),
        (
            "layers-lost-no-index",
            "lacks model-00002-of-00003.safetensors and 1 more: 1 of 2 layers",
        ),
        ("all-lost", "has no model*.safetensors"),
    ],
)
def test_half_a_download_is_told_by_what_is_lost(name: str, said: str, folder: Path) -> None:
    REFUSED[name](folder)
    with pytest.raises(BadModelFolder) as caught:
        inspect_folder(folder)
    assert said in caught.value.message


def test_a_tokenizer_of_no_tokens_is_refused(folder: Path) -> None:
    """transformers 5 makes one for some classes where no file has a vocabulary."""
    parts_of_a_vocabulary()(folder)
    assert mlx_lm_loads(folder)
    with pytest.raises(BadModelFolder, match=r"neither tokenizer\.json nor another vocabulary"):
        inspect_folder(folder)


def test_every_tokenizer_of_transformers_has_a_vocabulary_that_is_known() -> None:
    # RagTokenizer is two other tokenizers, in folders of their own.
    names = sorted(filter(None, {*TOKENIZER_MAPPING_NAMES.values()} - {"RagTokenizer"}))
    classes = [made for name in names if (made := tokenizer_class_from_name(name)) is not None]
    files = {made.__name__: list((made.vocab_files_names or {}).values()) for made in classes}
    assert len(files) > 50
    assert {name for name, its_files in files.items() if not its_files} <= WITHOUT_FILES
    for name, its_files in files.items():
        assert name in WITHOUT_FILES or any(map(is_vocabulary, its_files))
