"""JSON files of a model folder, read as mlx_lm and transformers read them.

Both use Python's `json`, which takes `Infinity`, `-Infinity` and `NaN`: folders of state-space
models have them. A stricter parser would refuse what mlx_lm loads. [both]
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.regular import read_regular

if TYPE_CHECKING:
    from pathlib import Path


def read_object(path: Path, encoding: str | None = None) -> dict[str, Any]:
    """Read a JSON object; `encoding` None: the locale's, as `open` has it.

    Raises BadModelFolder, naming the file, for anything else; FileNotFoundError.
    """
    try:
        value = read_value(path, encoding)
    except (ValueError, RecursionError) as error:
        raise BadModelFolder(f"{path} is no JSON object: {error}") from error
    return require_object(path, value)


def read_value(path: Path, encoding: str | None = None) -> Any:
    """Read any JSON value. Raises ValueError or RecursionError as `json` does."""
    with io.TextIOWrapper(io.BytesIO(read_regular(path)), encoding=encoding) as text:
        return json.load(text)


def require_object(path: Path, value: Any) -> dict[str, Any]:
    """Return the value of a file that must hold an object. Raises BadModelFolder."""
    if not isinstance(value, dict):
        raise BadModelFolder(f"{path} is no JSON object: it holds {type(value).__name__}")
    return value


def require_json(path: Path) -> None:
    """Check the syntax only, by strict rules, as the tokenizers library reads.

    A vocabulary is large, and only cut-off files are looked for. Raises BadModelFolder.
    """
    try:
        msgspec.json.decode(read_regular(path), type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadModelFolder(f"{path} is no JSON: {error}") from error
