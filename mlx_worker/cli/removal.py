"""Remove a model's folder from the models folder, if no node is meant to use the folder.

[front]
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_worker.cli.client.model_names import unknown_among
from mlx_worker.errors import ModelInUse, NodeUnreachable, UnknownModel
from mlx_worker.models.pull.disk import storing
from mlx_worker.models.pull.lock import pull_lock
from mlx_worker.models.resolve import model_places

if TYPE_CHECKING:
    from mlx_worker.cli.client import NodeClient
    from mlx_worker.config.schema import Config


def names_in(models_dir: Path) -> list[str]:
    """Return the names of the models in the models folder; [] if there is no such folder."""
    if not models_dir.is_dir():
        return []
    return sorted(
        entry.name
        for entry in models_dir.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def folder_named(models_dir: Path, name: str) -> Path:
    """Return the folder of a model in the models folder, by its name or its path.

    Raises ValueError for what is outside or a link, UnknownModel for a name that is not there.
    """
    folder = models_dir / Path(name).expanduser()
    if folder.parent.resolve() != models_dir.resolve() or folder.name.startswith("."):
        raise ValueError(f"{name!r} is not a folder in {models_dir}, and only those are removed")
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link to {folder.resolve()}: remove the link yourself")
    if not folder.is_dir():
        raise unknown_among(f"the models folder {models_dir}", name, names_in(models_dir))
    return folder


def refuse_if_configured(folder: Path, config: Config) -> None:
    """Raise ModelInUse if a model of the configuration has this folder."""
    for model in config.models:
        if any(_is_same(folder, place) for place in model_places(config, model)):
            raise ModelInUse(
                f"{folder} is the folder of {model.id!r} in {config.file}: remove the model there"
                " and reload the node first"
            )


async def refuse_if_loaded(folder: Path, node: NodeClient) -> None:
    """Raise ModelInUse if a process of the node has loaded this folder."""
    try:
        report = await node.get("/admin/processes")
    except (NodeUnreachable, UnknownModel):  # no node, or one of an earlier version
        return
    for process in report["processes"]:
        if process["folder"] is not None and _is_same(folder, Path(process["folder"])):
            raise ModelInUse(
                f"the node at {node.url} has loaded {folder} as {process['model']!r}: unload the"
                " model first"
            )


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def remove(folder: Path) -> None:
    """Remove a folder: renamed first, so that no program finds half a model.

    Raises StorageError if the disk refuses, or a pull of this model is under way.
    """
    models_dir, name = folder.parent, folder.name
    hidden = models_dir / f".removing-{name}"
    with storing(models_dir), pull_lock(models_dir, name):
        if hidden.exists():  # an earlier removal was interrupted
            shutil.rmtree(hidden)
        folder.rename(hidden)
        shutil.rmtree(hidden)
        shutil.rmtree(models_dir / f".pulling-{name}", ignore_errors=True)
