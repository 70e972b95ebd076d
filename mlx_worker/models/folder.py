"""Check that a folder is a complete model, by names, sizes and headers, never by weights.

A child that loads half a model fails late and with an unclear error; here the file that
is missing or broken has a name. [both]
"""

from __future__ import annotations

import os
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import msgspec

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.json_file import read_object, read_value, require_object
from mlx_worker.models.stated import context_length, tokenizer_context
from mlx_worker.models.tokenizer_files import read_tokenizer_config
from mlx_worker.models.weights import inspect_weights
from mlx_worker.system.privacy import hint


class ModelFolder(msgspec.Struct, frozen=True):
    """The description of a model by its folder; `context_length` in tokens, None if unknown.

    `context_is_firm` is True if config.json states the length, and not the tokenizer's settings
    alone. `weight_bytes` are those in memory with the floating-point type `dtype`, "" for the types
    in the files; `half_bytes` of the files are numbers of 16 bits, `single_bytes` of 32 bits.
    `chat_template` is the text of a configured template that replaces the folder's. `draft` is the
    folder of the model that drafts, whose weights count in `weight_bytes`; None for none.
    `warnings` are about files that do not match each other but load all the same.
    """

    path: Path
    model_type: str
    context_length: int | None
    weight_bytes: int
    has_chat_template: bool
    chat_template: str | None = None
    context_is_firm: bool = True
    warnings: tuple[str, ...] = ()
    half_bytes: int = 0
    single_bytes: int = 0
    dtype: str = ""
    draft: Path | None = None

    def context_with(self, configured: int | None) -> int | None:
        """Return the context length in tokens, None for no limit.

        `configured` is the configuration's. The lower one counts; where the tokenizer's settings
        alone state one, the configuration's.
        """
        if configured is None or self.context_length is None:
            return configured or self.context_length
        return min(configured, self.context_length) if self.context_is_firm else configured

    def all_warnings(self, configured: int | None) -> tuple[str, ...]:
        """Return what deserves a look, with this context length in the configuration."""
        context = self.context_with(configured)
        if context is None:
            warning = (
                "neither config.json nor tokenizer_config.json states a context length: memory is"
                " the only limit; set context_length for another one"
            )
        elif configured is not None and context < configured:
            warning = (
                f"context_length {configured} is over the model's own, which counts: {context}"
            )
        else:
            return self.warnings
        return (*self.warnings, warning)


def inspect_folder(path: Path) -> ModelFolder:
    """Describe a model folder in mlx_lm's layout, in milliseconds.

    Refuses what mlx_lm cannot load, and nothing else. Raises BadModelFolder with one line that
    names the file and what is wrong with it.
    """
    try:
        config = _config(path)
        os.scandir(path).close()  # a glob of a folder that may not be listed is silently empty
        weights = inspect_weights(path, config)
        tokenizer = read_tokenizer_config(path)
        stated = context_length(config)
        return ModelFolder(
            path=path,
            model_type=_model_type(path, config),
            context_length=stated or tokenizer_context(tokenizer),
            weight_bytes=weights.nbytes,
            has_chat_template=_has_chat_template(path, tokenizer),
            context_is_firm=stated is not None,
            warnings=(*weights.warnings, *_generation_warnings(path)),
            half_bytes=weights.half_bytes,
            single_bytes=weights.single_bytes,
        )
    except PermissionError as error:
        raise not_permitted(Path(error.filename or path), error) from error
    except OSError as error:
        raise BadModelFolder(f"cannot read {error.filename or path}: {error.strerror}") from error


def not_permitted(path: Path, error: OSError) -> BadModelFolder:
    """Return the error for a file or folder that is there and may not be read."""
    return BadModelFolder(f"{path}: not permitted to read this ({error.strerror}){hint()}")


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_object(path / "config.json")
    except FileNotFoundError as error:
        raise BadModelFolder(f"{path} has no config.json") from error


def _generation_warnings(path: Path) -> list[str]:
    """Return a warning for a generation_config.json that mlx_lm ignores.

    Raises BadModelFolder for one at which mlx_lm fails.
    """
    file = path / "generation_config.json"
    try:
        require_object(file, read_value(file))
    except FileNotFoundError:
        return []
    except JSONDecodeError as error:
        return [f"{file.name} is no JSON and is not read: {error}"]
    except (ValueError, RecursionError) as error:
        raise BadModelFolder(f"{file} is no JSON object: {error}") from error
    return []


def _model_type(path: Path, config: dict[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BadModelFolder(f"{path / 'config.json'} names no model_type")
    return model_type


def _has_chat_template(path: Path, tokenizer_config: dict[str, Any]) -> bool:
    return bool(tokenizer_config.get("chat_template")) or (path / "chat_template.jinja").is_file()
