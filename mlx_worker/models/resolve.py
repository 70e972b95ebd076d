"""What a configuration would run: each model with the folder that was found for it.

`plan` is strict and for commands that check a configuration: a wrong path or half a model folder
is one line and an exit code. A node starts with what has not been looked at yet (`unseen`), and
looks at each folder with `inspect_model` beside its work. [front]
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from mlx_worker.config.host_checks import hosts_of
from mlx_worker.errors import ConfigError, UnservableModel, WorkerError
from mlx_worker.models.json_file import read_object
from mlx_worker.models.regular import read_regular
from mlx_worker.models.splits import check_split
from mlx_worker.models.store import default_models_dir, inspect_folder, locate, places
from mlx_worker.models.weight_types import AS_STORED
from mlx_worker.system.text_files import decode_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlx_worker.config.schema import Config, HostConfig, ModelConfig
    from mlx_worker.config.schema.model_types import WeightType
    from mlx_worker.models.store import ModelFolder
    from mlx_worker.models.weight_types import WeightTypes


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One configured model and its folder's content; `folder` is None until inspected.

    `hosts` are those that compute the model together, by rank; () for this machine alone.
    """

    config: ModelConfig
    folder: ModelFolder | None
    hosts: tuple[HostConfig, ...] = ()

    @property
    def context_length(self) -> int | None:
        """Return the context length in tokens, by configuration and folder; None if unknown."""
        configured = self.config.context_length
        return self.folder.context_with(configured) if self.folder else configured

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings about the folder or the configuration; () for none."""
        if self.folder is None:
            return ()
        return self.folder.all_warnings(self.config.context_length)

    @property
    def chat_template(self) -> str | None:
        """Return the text of the configured chat template; None for the folder's own."""
        return self.folder.chat_template if self.folder else None

    @property
    def inspected(self) -> ModelFolder:
        """Return the folder of a model that `plan` has inspected."""
        assert self.folder is not None, "plan inspects every folder"
        return self.folder


def plan(config: Config, types: WeightTypes = AS_STORED) -> list[PlannedModel]:
    """Find and inspect every model's folder, and the files that are to be warmed.

    Raises ModelNotFoundError or BadModelFolder, naming the model, or ConfigError.
    """
    for error in missing_warm_files(config):
        raise error
    return [plan_model(config, model, types) for model in config.models]


def unseen(config: Config) -> list[PlannedModel]:
    """Return every model as configured, without a look at any folder."""
    return [PlannedModel(model, None, hosts_of(config, model)) for model in config.models]


def plan_model(config: Config, model: ModelConfig, types: WeightTypes) -> PlannedModel:
    """Return a model with its folder and its hosts. Raises what `inspect_model` raises."""
    return PlannedModel(model, inspect_model(config, model, types), hosts_of(config, model))


def inspect_model(
    config: Config, model: ModelConfig, types: WeightTypes = AS_STORED
) -> ModelFolder:
    """Find and inspect one model's folder. May block for as long as the disk does.

    Raises ModelNotFoundError, BadModelFolder or UnservableModel, naming the model, or ConfigError
    for a chat template that cannot be read.
    """
    try:
        folder = inspect_folder(locate(model.path, models_dir_of(config), config.folder))
        folder = replace(folder, chat_template=_chat_template(model))
        if model.rank_count > 1:
            check_split(read_object(folder.path / "config.json"), model.rank_count, model.split)
        folder = types.applied_to(folder, model.dtype)
    except WorkerError as error:
        of_split = "hosts" if model.hosts else "ranks"
        key = of_split if isinstance(error, UnservableModel) else "path"
        raise type(error)(f"model {model.id!r}: {error}", param=key) from error
    return _with_draft(config, model, folder)


def _with_draft(config: Config, model: ModelConfig, folder: ModelFolder) -> ModelFolder:
    """Return the folder with that of the configured draft model, where one is used.

    Raises ModelNotFoundError or BadModelFolder, naming the model.
    """
    if model.draft is None or model.rank_count > 1 or model.speculation == "off":
        return folder
    try:
        draft = inspect_folder(locate(model.draft, models_dir_of(config), config.folder))
    except WorkerError as error:
        raise type(error)(f"model {model.id!r}: draft: {error}", param="draft") from error
    # Both are held in the same type.
    draft = AS_STORED.applied_to(draft, _weight_type(folder.dtype))
    return replace(folder, draft=draft.path, weight_bytes=folder.weight_bytes + draft.weight_bytes)


def _weight_type(dtype: str) -> WeightType:
    """Return the setting that makes a folder's weights this type; "" are the files' types."""
    return "float32" if dtype == "float32" else "bfloat16" if dtype == "bfloat16" else "auto"


def models_dir_of(config: Config | None) -> Path:
    """Return the folder in which a configuration keeps models; None: there is no configuration."""
    return (config and config.server.models_dir) or default_models_dir()


def model_places(config: Config, model: ModelConfig) -> list[Path]:
    """Return the paths where one model's folder may be, the preferred one first."""
    return places(model.path, models_dir_of(config), config.folder)


def missing_warm_files(config: Config) -> Iterator[ConfigError]:
    """Yield the error about every file to warm that cannot be read."""
    for i, model in enumerate(config.models):
        for k, path in enumerate(model.warm):
            if not (path.is_file() and os.access(path, os.R_OK)):
                key = f"models[{i}].warm[{k}]"
                problem = f"{key}: {path} is no file that can be read"
                yield ConfigError(
                    f"{config.file}: {problem}" if config.file else problem, param=key
                )


def _chat_template(model: ModelConfig) -> str | None:
    """Return the text of the template that the configuration names. Raises ConfigError."""
    if model.chat_template is None:
        return None
    try:
        text = decode_text(read_regular(model.chat_template))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"{model.chat_template} cannot be read: {reason}"
    else:
        if text.strip():
            return text
        problem = f"{model.chat_template} is empty"
    raise ConfigError(f"chat_template: {problem}", param="chat_template")
