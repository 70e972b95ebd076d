"""A model folder on the disk to a model in memory, with reports of progress.

[child]
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from jinja2 import TemplateSyntaxError
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm import utils as mlx_lm_utils

from mlx_worker.errors import (
    BadModelFolder,
    InferenceError,
    ModelNotFoundError,
    UnservableModel,
    cause_of,
)
from mlx_worker.models.store import inspect_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    LoadProgress = Callable[[int, int], None]
    """Called with (bytes in memory, bytes in all)."""

FULL = "float32"
"""The type in which no part of a model loses anything."""

BITE = 64 << 20
"""Bytes read between two reports of progress."""


def read_model(
    path: Path,
    config: dict[str, Any] | None = None,
    on_progress: LoadProgress | None = None,
    chat_template: str | None = None,
    context_length: int | None = None,
    dtype: str = "",
    keep_part: Callable[[Any], None] | None = None,
) -> tuple[Any, Any, int | None]:
    """Load weights and tokenizer from a folder, and report progress.

    Returns (model, tokenizer, context length in tokens or None for no limit). `config` overrides
    entries of the model's config.json, `chat_template` the tokenizer's own; `context_length` is the
    configured one. `dtype` is the floating-point type of the weights, "" for those in the files.
    `keep_part` reduces the model to what this process computes, before weights are read.
    Raises ModelNotFoundError where there is nothing at the path, BadModelFolder
    where the path is no folder, or where a file or the template is missing or broken, what
    `keep_part` raises of a model that cannot be split, and InferenceError with the cause for any
    other failure.
    """
    if not path.exists():
        raise ModelNotFoundError(f"Model not found: {path}")
    if not path.is_dir():
        raise BadModelFolder(f"{path} is not a folder; a model is a folder of files")
    folder = inspect_folder(path)
    extra = None if chat_template is None else {"chat_template": chat_template}
    try:
        model, settings = mlx_lm_utils.load_model(path, lazy=True, model_config=config)
        if keep_part is not None:
            keep_part(model)
        convert_weights(model, dtype)
        _materialize(model, on_progress)
        tokenizer = mlx_lm_utils.load_tokenizer(
            path, extra, eos_token_ids=settings.get("eos_token_id")
        )
    except UnservableModel:
        raise
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise BadModelFolder(f"cannot build a model from {path}: {cause_of(error)}") from error
    except SystemExit as error:
        # mlx_lm's module for a family that needs another package prints a message and exits.
        raise BadModelFolder(
            f"mlx_lm cannot load a model of type {folder.model_type!r} here: "
            "its module needs a package that is not installed"
        ) from error
    except Exception as error:
        # mlx and transformers raise nearly anything here, MemoryError included.
        raise InferenceError(f"cannot load the model at {path}: {cause_of(error)}") from error
    if chat_template is not None:
        # Families without a Jinja template have one in mlx_lm's own code, which would go first.
        tokenizer._chat_template = None  # noqa: SLF001
        _check_template(tokenizer)
    return model, tokenizer, folder.context_with(context_length)


def _check_template(tokenizer: Any) -> None:
    """Raise BadModelFolder for invalid syntax; a refusal of this chat is no error here."""
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    except TemplateSyntaxError as error:
        raise BadModelFolder(f"chat_template: line {error.lineno}: {error.message}") from error
    except Exception:  # noqa: BLE001  (a program of the model's author, which may refuse this chat)
        return


def convert_weights(model: Any, dtype: str) -> None:
    """Convert the weights to a floating-point type, lazily; "" leaves them as they are.

    Parts that a family computes in float32 stay in float32.
    """
    if not dtype:
        return
    target = getattr(mx, dtype)
    is_cast = getattr(model, "cast_predicate", lambda _path: True)

    def converted(path: str, value: mx.array) -> mx.array:
        is_kept = not mx.issubdtype(value.dtype, mx.floating) or value.dtype == mx.float64
        return value if is_kept or not (is_cast(path) or dtype == FULL) else value.astype(target)

    model.update(tree_map_with_path(converted, model.parameters()))


def weight_type(model: Any) -> str:
    """Return the floating-point type that most weights have, by their number; "" for none."""
    sizes: Counter[str] = Counter()
    for _, array in tree_flatten(model.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[str(array.dtype).rpartition(".")[2]] += array.size
    return max(sizes, key=sizes.__getitem__, default="")


def weight_bytes(model: Any) -> int:
    """Return the bytes of all parameters."""
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def _materialize(model: Any, on_progress: LoadProgress | None) -> None:
    """Read the lazily loaded weights, a part at a time, and report progress."""
    arrays = [array for _, array in tree_flatten(model.parameters())]
    total = sum(array.nbytes for array in arrays)
    done, pending, waiting = 0, [], 0
    for array in arrays:
        pending.append(array)
        waiting += array.nbytes
        if waiting >= BITE:
            mx.eval(pending)
            done, pending, waiting = done + waiting, [], 0
            if on_progress is not None:
                on_progress(done, total)
    mx.eval(model.parameters())
    if on_progress is not None:
        on_progress(total, total)
