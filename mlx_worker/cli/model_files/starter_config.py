"""A configuration for this machine and the models in its models folder, with comments.

What a key means is the schema's own description. Keys that need no value here are comments. [front]
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil

from mlx_worker.config.reference import SECTIONS, keys
from mlx_worker.config.schema import SupervisorConfig
from mlx_worker.config.sizes import MODELS_SHARE, in_words
from mlx_worker.errors import BadModelFolder, ModelNotFoundError, StorageError
from mlx_worker.models.folder import ModelFolder, inspect_folder
from mlx_worker.models.pull.catalog import SMOLLM2_135M
from mlx_worker.models.pull.disk import storing
from mlx_worker.models.store import pull_command
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.memory.policy import PROCESS_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WIDTH: Final = 96
LONGEST_NAME: Final = 200
"""Characters of an id, as the schema has it."""

EXAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "server": {"api_keys_file": "keys", "trusted": ["10.0.0.0/24"]},
    "supervisor": {"memory_limit": float(MODELS_SHARE), "drain_timeout": None},
    "cache": {"disk": None, "disk_cache_bytes": "50GB"},
    "log": {"level": None, "file": "mlx-worker.log"},
    "models": {
        "aliases": ["current-model"],
        "pin": None,
        "idle_timeout": 900,
        "max_concurrency": None,
        "cache_bytes": "4GiB",
        "warm": ["system-prompt.txt"],
    },
    "models.defaults": {"temperature": 0.7, "max_tokens": 1024},
}
"""The keys that are written as comments, each with a value; None: the default of the key."""

HEAD: Final = """\
# The configuration of mlx-worker, in TOML. `mlx-worker check` tells what would run, and what is
# wrong; `mlx-worker serve` starts the node. A line like "# key = value" is a key that is not set.
# docs/reference/configuration.md has every key.
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the ids of the models, and the folders that are no models, with reasons."""

    models_dir: Path
    ids: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def write_starter_config(file: Path, models_dir: Path, *, force: bool) -> Written:
    """Write a configuration of the models in a folder.

    Raises StorageError for a file that exists, unless `force` is set, or that cannot be written;
    ModelNotFoundError for a folder without any model.
    """
    refuse_existing(file, force=force)
    models, skipped = find_models(models_dir)
    if not models:
        raise ModelNotFoundError(
            f"there is no model in {models_dir}: `{pull_command(SMOLLM2_135M.name, models_dir)}`"
            " downloads a small one"
        )
    text = starter_config(models_dir, models)
    with storing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return Written(models_dir.resolve(), tuple(model.path.name for model in models), tuple(skipped))


def refuse_existing(file: Path, *, force: bool) -> None:
    """Raise StorageError for a file that exists, unless `force` is set."""
    if file.exists() and not force:
        raise StorageError(
            f"{file} exists already: name another FILE, or use --force to replace it"
        )


def find_models(models_dir: Path) -> tuple[list[ModelFolder], list[tuple[str, str]]]:
    """Return the models in a folder, by name, and the folders that are none, with the reason."""
    models_dir = models_dir.resolve()
    models: list[ModelFolder] = []
    skipped: list[tuple[str, str]] = []
    for folder in sorted(models_dir.iterdir()) if models_dir.is_dir() else ():
        name = folder.name
        if name.startswith(".") or not folder.is_dir():
            continue
        if len(name) > LONGEST_NAME or not name.isprintable():
            skipped.append((ascii(name), "such a name cannot be an id"))
            continue
        try:
            models.append(inspect_folder(folder))
        except BadModelFolder as error:
            skipped.append((name, error.message))
    return models, skipped


def starter_config(models_dir: Path, models: list[ModelFolder]) -> str:
    """Return the text of a configuration that serves these models."""
    limit = settings.memory_limit(SupervisorConfig())
    machine = psutil.virtual_memory().total
    memory = f"This machine has {in_words(machine)}: models may take {in_words(limit)} together."
    server = {"host": "127.0.0.1", "port": 8081, "models_dir": _as_path(str(models_dir.resolve()))}
    lines = [
        HEAD,
        *_section("server", server),
        *_section("supervisor", {}, memory),
        *_section("log", {}),
        *_section("cache", {}),
    ]
    fitting = _fitting(models, limit)
    for number, model in enumerate(models):
        needed = in_words(model.weight_bytes + PROCESS_BYTES)
        about = f"{model.model_type}, about {needed} of memory without its cache."
        values = {
            "id": model.path.name,
            "path": _as_path(model.path.name),
            "default": model is (fitting or models)[0],
            "preload": model in fitting,
            **({"context_length": model.context_length} if model.context_length else {}),
        }
        lines += _section("models", values, about, explained=number == 0)
    return "\n".join(lines)


def _fitting(models: list[ModelFolder], limit: int) -> list[ModelFolder]:
    """Return the models that fit in memory together, as many as there can be in their order."""
    fitting: list[ModelFolder] = []
    for model in models:
        if (needed := model.weight_bytes + PROCESS_BYTES) <= limit:
            fitting.append(model)
            limit -= needed
    return fitting


def _section(
    section: str, values: Mapping[str, Any], about: str = "", *, explained: bool = True
) -> Iterator[str]:
    """Yield the lines of a section; the descriptions of its keys if `explained` is set."""
    if explained:
        yield from _comment(SECTIONS[section][1])
    if about:
        yield from _comment(about)
    yield f"[[{section}]]" if section == "models" else f"[{section}]"
    yield from _keys(section, values, explained=explained)
    if section == "models" and explained:
        yield ""
        yield from _comment(SECTIONS["models.defaults"][1])
        yield from _keys("models.defaults", {}, explained=True)
    yield ""


def _keys(section: str, values: Mapping[str, Any], *, explained: bool) -> Iterator[str]:
    examples = EXAMPLES[section]
    for key in keys(section):
        if key.name not in values and not (explained and key.name in examples):
            continue
        if explained:
            yield from _comment(key.description)
        if key.name in values:
            yield f"{key.name} = {_toml(values[key.name])}"
        else:
            example = examples[key.name]
            dotted = "defaults." if section == "models.defaults" else ""
            yield f"# {dotted}{key.name} = {_toml(key.default if example is None else example)}"


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH):
        yield f"# {line}"


def _as_path(text: str) -> str:
    """Return a path as the configuration writes it: a dollar sign begins a variable there."""
    return text.replace("$", "$$")


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
