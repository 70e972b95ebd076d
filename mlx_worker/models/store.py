"""The models folder: where it is, and which folder a configured model means.

[both]
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import platformdirs

from mlx_worker.config.locate import expand_user
from mlx_worker.errors import BadModelFolder, ModelNotFoundError
from mlx_worker.models.folder import ModelFolder, inspect_folder, not_permitted
from mlx_worker.models.pull.catalog import CATALOG

__all__ = [
    "ModelFolder",
    "default_models_dir",
    "inspect_folder",
    "locate",
    "places",
    "pull_command",
]


def default_models_dir() -> Path:
    """Return $MLX_WORKER_MODELS, else the user's data folder of this platform."""
    configured = os.environ.get("MLX_WORKER_MODELS")
    if configured:
        return Path(configured).expanduser()
    return platformdirs.user_data_path("mlx-worker") / "models"


def locate(path_or_name: str, models_dir: Path, relative_to: Path | None = None) -> Path:
    """Find a model's folder from a path (absolute, relative or with ~) or a name.

    Relative paths start at `relative_to` (the configuration's folder; None: the working
    directory). A bare name is looked for in the models folder first. What is in the folder is
    not looked at. Raises ModelNotFoundError with the places that were tried, BadModelFolder where
    one of them may not be looked at, or something else than a folder is there.
    """
    candidates = places(path_or_name, models_dir, relative_to)
    refused: BadModelFolder | None = None
    for candidate in candidates:
        try:
            mode = candidate.stat().st_mode
        except PermissionError as error:
            refused = refused or not_permitted(candidate, error)
            continue
        except (OSError, ValueError):  # missing, or not a possible path
            continue
        if stat.S_ISDIR(mode):
            return candidate
        what = f"{candidate} is not a folder; a model is a folder of files"
        refused = refused or BadModelFolder(what)
    if refused is not None:
        raise refused
    tried = ", ".join(str(candidate) for candidate in candidates) or "nothing: the path is empty"
    raise ModelNotFoundError(
        f"Model not found: {path_or_name} (looked in {tried}){_hint(path_or_name, models_dir)}"
    )


def pull_command(name: str, models_dir: Path) -> str:
    """Return the command that brings a model of the catalog into this models folder."""
    return f"mlx-worker pull {name} --models-dir {shlex.quote(str(models_dir))}"


def places(path_or_name: str, models_dir: Path, relative_to: Path | None = None) -> list[Path]:
    """Return the paths where `locate` looks for a model's folder, in order."""
    if not path_or_name:
        return []
    start = relative_to or Path.cwd()
    path = Path(os.path.normpath(start / expand_user(Path(path_or_name))))
    return [path] if _is_path(path_or_name) else [models_dir / path_or_name, path]


def _is_path(text: str) -> bool:
    return "/" in text or text.startswith((".", "~"))


def _hint(path_or_name: str, models_dir: Path) -> str:
    """Return a command that brings the model to where it is looked for; "" for an unknown name."""
    if path_or_name in CATALOG:
        return f"; `{pull_command(path_or_name, models_dir)}` downloads the model"
    return ""
