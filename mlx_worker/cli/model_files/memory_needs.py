"""Find a model's files and what they need of memory, by the node's own arithmetic.

A process of its own builds the model without its weights: the commands import no mlx. [front]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import psutil

from mlx_worker.config.schema import CacheConfig, ModelConfig, SupervisorConfig
from mlx_worker.errors import BadModelFolder
from mlx_worker.models.folder import ModelFolder, inspect_folder
from mlx_worker.models.json_file import read_object
from mlx_worker.models.pull.command import run_module
from mlx_worker.models.resolve import inspect_model, models_dir_of
from mlx_worker.models.stated import context_length
from mlx_worker.models.store import locate
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.blas.preparation import expected_weight_types
from mlx_worker.supervisor.memory.fit import MemoryFit, pinned_claims
from mlx_worker.supervisor.memory.policy import disk_buffers
from mlx_worker.wire.memory_needs import MemoryNeeds

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import Config
    from mlx_worker.config.sizes import MemoryLimit
    from mlx_worker.supervisor.memory.policy import MemoryClaim

    Probe = Callable[[Path, str], MemoryNeeds]

PROBE: Final = "mlx_worker.child.memory_probe"
PREFIX: Final = "needs "
"""What the probe's line with the result begins with."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where models are, and the memory that they may take: None is what the node would use."""

    config: Config | None
    models_dir: Path | None = None
    memory_limit: MemoryLimit | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A model that was found, and its needs beside the memory.

    `machine_bytes` is the memory of this machine. `warnings` are about the files. `dtype` is the
    floating-point type of the weights in memory; "": the types in the files.
    """

    name: str
    path: Path
    model_type: str
    fit: MemoryFit
    machine_bytes: int
    warnings: tuple[str, ...] = ()
    dtype: str = ""

    @property
    def is_computed(self) -> bool:
        """True if there are no weights: their bytes are computed from config.json."""
        return not self.path.is_dir()


def probe(path: Path, dtype: str) -> MemoryNeeds:
    """Return what a folder's model, or the model of a config.json, needs of memory.

    `dtype` is the floating-point type of the weights; "": the types in the files.

    Raises BadModelFolder, or UnservableModel for what the engine refuses.
    """
    found: list[MemoryNeeds] = []

    def on_line(line: str) -> None:
        if line.startswith(PREFIX):
            found.append(msgspec.json.decode(line.removeprefix(PREFIX), type=MemoryNeeds))

    asyncio.run(
        run_module(PROBE, str(path), "--dtype", dtype, on_line=on_line, bad_data=BadModelFolder)
    )
    if not found:
        raise BadModelFolder(f"{PROBE} printed no result")
    return found[-1]


def fit_of(model: str, where: Where, ask: Probe = probe) -> Found:
    """Return what a model needs, by a path, an id or alias of the configuration, or a name.

    `ask` finds the needs of a folder or a config.json.

    Raises ModelNotFoundError, BadModelFolder, UnservableModel or ConfigError.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return _of_config_file(path, where, ask)
    configured = None if path.is_dir() else _configured(model, where.config)
    if configured is not None and where.config is not None:
        folder = inspect_model(where.config, configured, expected_weight_types(where.config))
        return _of_folder(configured.id, folder, where, ask, configured)
    folders = where.models_dir or models_dir_of(where.config)
    found = inspect_folder(path if path.is_dir() else locate(model, folders))
    found = expected_weight_types(where.config).applied_to(found)
    return _of_folder(found.path.resolve().name, found, where, ask)


def _configured(model: str, config: Config | None) -> ModelConfig | None:
    models = config.models if config else ()
    return next((item for item in models if model in (item.id, *item.aliases)), None)


def _of_config_file(file: Path, where: Where, ask: Probe) -> Found:
    config = read_object(file)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BadModelFolder(f"{file} names no model_type")
    needs = ask(file, "")
    fit = _fit(needs, needs.weight_bytes, context_length(config), where, None)
    return Found(str(file), file, model_type, fit, psutil.virtual_memory().total)


def _of_folder(
    name: str,
    folder: ModelFolder,
    where: Where,
    ask: Probe,
    configured: ModelConfig | None = None,
) -> Found:
    context = configured.context_length if configured else None
    needs = ask(folder.path, folder.dtype)
    if folder.draft is not None:
        needs = _with_draft(needs, ask(folder.draft, folder.dtype))
    fit = _fit(
        needs,
        folder.weight_bytes,
        folder.context_with(context),
        where,
        configured,
        pinned_claims(_pinned_weights(where.config, configured)),
    )
    return Found(
        name,
        folder.path,
        folder.model_type,
        fit,
        psutil.virtual_memory().total,
        folder.all_warnings(context),
        folder.dtype,
    )


def _with_draft(needs: MemoryNeeds, draft: MemoryNeeds) -> MemoryNeeds:
    """Return the needs with the KV that a draft model holds of each row too."""
    return msgspec.structs.replace(
        needs,
        kv=needs.kv.beside(draft.kv) if needs.kv and draft.kv else None,
        unknown=(*needs.unknown, *(f"draft model: {why}" for why in draft.unknown)),
    )


def _fit(
    needs: MemoryNeeds,
    weight_bytes: int | None,
    context: int | None,
    where: Where,
    model: ModelConfig | None,
    pinned: tuple[MemoryClaim, ...] = (),
) -> MemoryFit:
    if where.memory_limit is not None:
        limit = where.memory_limit.of(psutil.virtual_memory().total)
    else:
        configured = where.config.supervisor if where.config else SupervisorConfig()
        limit = settings.memory_limit(configured)
        limit = min(limit, needs.working_set or limit)
    cache = where.config.cache if where.config else CacheConfig()
    buffers = disk_buffers(model or ModelConfig(id="", path=""), cache)
    ranks = model.ranks if model else 1
    return MemoryFit(needs, weight_bytes, context, limit, pinned, buffers, ranks)


def _pinned_weights(config: Config | None, model: ModelConfig | None) -> list[int]:
    """Return the bytes of the weights that stay in memory beside a configured model."""
    if config is None or model is None:
        return []
    others = [other for other in config.models if other.pin and other is not model]
    types = expected_weight_types(config)
    return [inspect_model(config, other, types).weight_bytes for other in others]
