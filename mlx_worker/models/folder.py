"""Is this folder a whole model? Answered from names, sizes and headers, never from weights.

A child that loads half a model fails late and in a way nobody understands; here the file that
is missing or broken has a name. [both]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.header import checked_weight_bytes
from mlx_worker.models.regular import read_regular
from mlx_worker.privacy import hint


class ModelFolder(msgspec.Struct, frozen=True):
    """What a folder says about its model; `context_length` in tokens, None where it does not."""

    path: Path
    model_type: str
    context_length: int | None
    weight_bytes: int
    has_chat_template: bool


def inspect_folder(path: Path) -> ModelFolder:
    """Describe a model folder in mlx_lm's layout, in milliseconds.

    Raises BadModelFolder with one line that names the file and what is wrong with it.
    """
    try:
        config = _json_object(path / "config.json")
        os.scandir(path).close()  # a glob of a folder that may not be listed is silently empty
        return ModelFolder(
            path=path,
            model_type=_model_type(path, config),
            context_length=_context_length(config),
            weight_bytes=sum(checked_weight_bytes(shard) for shard in _shards(path)),
            has_chat_template=_has_chat_template(path, _tokenizer_config(path)),
        )
    except PermissionError as error:
        raise not_permitted(Path(error.filename or path), error) from error
    except OSError as error:
        raise BadModelFolder(f"cannot read {error.filename or path}: {error.strerror}") from error


def not_permitted(path: Path, error: OSError) -> BadModelFolder:
    """Return the error for a file or folder that is there and may not be read."""
    return BadModelFolder(f"{path}: not permitted to read this ({error.strerror}){hint()}")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(read_regular(path), type=dict[str, Any])
    except FileNotFoundError as error:
        raise BadModelFolder(f"{path.parent} has no {path.name}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadModelFolder(f"{path} is no JSON object: {error}") from error


def _require_json(path: Path) -> None:
    """Check the syntax only: a vocabulary is large, and only cut-off files are looked for."""
    try:
        msgspec.json.decode(read_regular(path), type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadModelFolder(f"{path} is no JSON: {error}") from error


def _model_type(path: Path, config: dict[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BadModelFolder(f"{path / 'config.json'} names no model_type")
    return model_type


def _context_length(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        tokens = part.get("max_position_embeddings")
        if isinstance(tokens, int) and tokens > 0:
            return tokens
    return None


def _shards(path: Path) -> list[Path]:
    """Find the files that mlx_lm would load, and miss those that the index lists."""
    shards = sorted(path.glob("model*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.exists():
        listed = _json_object(index).get("weight_map")
        names = set(listed.values()) if isinstance(listed, dict) else set()
        missing = sorted(str(name) for name in names if path / str(name) not in shards)
        if missing:
            raise BadModelFolder(f"{path} lacks {missing[0]}, which {index.name} lists")
    if not shards:
        raise BadModelFolder(f"{path} has no model*.safetensors")
    return shards


def _tokenizer_config(path: Path) -> dict[str, Any]:
    if (path / "tokenizer.json").exists():
        _require_json(path / "tokenizer.json")
    elif not (path / "tokenizer.model").is_file():
        raise BadModelFolder(f"{path} has neither tokenizer.json nor tokenizer.model")
    config = path / "tokenizer_config.json"
    return _json_object(config) if config.exists() else {}


def _has_chat_template(path: Path, tokenizer_config: dict[str, Any]) -> bool:
    files = ("chat_template.jinja", "chat_template.json")
    return bool(tokenizer_config.get("chat_template")) or any(
        (path / name).is_file() for name in files
    )
