"""The files that transformers builds a tokenizer from.

[both]
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.json_file import read_object, require_json

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: Final = "tokenizer_config.json"

VOCABULARIES: Final = (
    *("tokenizer.json", "tokenizer.*.json", "vocab*.json", "vocab.txt", "*.model", "*.model.v*"),
    *("*.tiktoken", "tekken.json", "*.spm", "vocab.bpe", "bpe.codes", "dict.txt", "*.tokenizer"),
    "byte_maps.json",
)
"""One of them is the vocabulary. Which ones a tokenizer needs is known to its class alone."""

WITHOUT_FILES: Final = frozenset(
    {"ByT5Tokenizer", "CanineTokenizer", "DiaTokenizer", "PerceiverTokenizer"}
)
"""Classes whose tokens are bytes or characters: nothing to read."""


def is_vocabulary(name: str) -> bool:
    """Return True if a file of this name may hold a tokenizer's vocabulary."""
    return any(fnmatchcase(name, pattern) for pattern in VOCABULARIES)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return tokenizer_config.json, {} where there is none. Raises BadModelFolder.

    Also where the folder has no vocabulary, or a tokenizer.json that was cut off.
    """
    try:
        config = read_object(folder / CONFIG, "utf-8")
    except FileNotFoundError:
        config = {}
    if (folder / "tokenizer.json").exists():
        require_json(folder / "tokenizer.json")
    elif not (_needs_no_file(config) or any(is_vocabulary(file.name) for file in folder.iterdir())):
        raise BadModelFolder(
            f"{folder} has neither tokenizer.json nor another vocabulary "
            "(tokenizer.model, vocab.json and merges.txt, vocab.txt, …)"
        )
    return config


def _needs_no_file(config: dict[str, Any]) -> bool:
    name = config.get("tokenizer_class")
    return isinstance(name, str) and name.removesuffix("Fast") in WITHOUT_FILES
