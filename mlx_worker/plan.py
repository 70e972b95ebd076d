"""What a configuration would run: each model with the folder that was found for it.

Asked once, before anything starts, so that a wrong path or half a model folder is one line and an
exit code instead of a child that fails for ever. [front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker.errors import ConfigError, WorkerError
from mlx_worker.models.store import default_models_dir, inspect_folder, locate

if TYPE_CHECKING:
    from mlx_worker.config import Config, ModelConfig
    from mlx_worker.models.store import ModelFolder


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One configured model, what lies in its folder, and the text of its own chat template."""

    config: ModelConfig
    folder: ModelFolder
    chat_template: str | None = None

    @property
    def context_length(self) -> int | None:
        """Tokens, by the configuration and the folder; None where neither says."""
        limits = (self.config.context_length, self.folder.context_length)
        return min((limit for limit in limits if limit is not None), default=None)


def plan(config: Config) -> list[PlannedModel]:
    """Find and inspect every model's folder.

    Raises ModelNotFoundError or BadModelFolder, naming the model, or ConfigError for a chat
    template that cannot be read.
    """
    return [_planned(config, model) for model in config.models]


def _planned(config: Config, model: ModelConfig) -> PlannedModel:
    models_dir = config.server.models_dir or default_models_dir()
    try:
        folder = inspect_folder(locate(model.path, models_dir, config.folder))
    except WorkerError as error:
        raise type(error)(f"model {model.id!r}: {error}", param="path") from error
    return PlannedModel(model, folder, _chat_template(model))


def _chat_template(model: ModelConfig) -> str | None:
    """The text of the template that the configuration names."""
    if model.chat_template is None:
        return None
    try:
        text = model.chat_template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        problem = f"{model.chat_template} cannot be read: {reason}"
    else:
        if text.strip():
            return text
        problem = f"{model.chat_template} is empty"
    raise ConfigError(f"model {model.id!r}: chat_template: {problem}", param="chat_template")
