"""The place where a model is made before it is a model.

A hidden folder beside the models, so that the finished one can be renamed into place: other
programs see the whole model or none. It goes away with the pull, whatever ends it; only after an
interrupted download, by the network or by the user, its `download` folder stays, for the next pull
of the same origin. [front]
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from mlx_worker.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

from pathlib import Path


class Staging(msgspec.Struct, frozen=True):
    """`download` takes what comes from outside, `model` becomes the model."""

    download: Path
    model: Path


@contextmanager
def staging_folder(models_dir: Path, name: str, origin: str) -> Iterator[Staging]:
    """Open an empty staging folder, or the folder that an interrupted pull of `origin` left.

    The caller holds the model's lock.
    """
    root = models_dir / f".pulling-{name}"
    staging = Staging(download=root / "download", model=root / "model")
    _prepare(root, staging, origin)
    try:
        yield staging
    except SourceUnavailable as error:
        if _keep_download(root, staging):
            advice = f"{error.message}; the same command continues where the download stopped"
            raise SourceUnavailable(advice) from error
        raise
    except (asyncio.CancelledError, KeyboardInterrupt):
        _keep_download(root, staging)
        raise
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    shutil.rmtree(root)


def _keep_download(root: Path, staging: Staging) -> bool:
    """Remove all but what was downloaded; return False if nothing was."""
    shutil.rmtree(staging.model, ignore_errors=True)
    if any(path.is_file() for path in staging.download.rglob("*")):
        return True
    shutil.rmtree(root)
    return False


def _prepare(root: Path, staging: Staging, origin: str) -> None:
    """Keep earlier bytes of the same origin only: parts of two models must never be mixed."""
    note = root / "origin"
    if not note.is_file() or note.read_text() != origin:
        shutil.rmtree(root, ignore_errors=True)
    staging.download.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(staging.model, ignore_errors=True)
    note.write_text(origin)
