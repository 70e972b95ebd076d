"""Arguments that name a model, and what a shell completes them with.

The names are those of the node, else those of the configuration. A shell waits for the answer at
every press of the key, so a node has a moment to answer, and what goes wrong means no names.
[front]
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from mlx_worker.cli.options import configuration, models_folder, node_meant
from mlx_worker.errors import WorkerError

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT: Final = 0.7
"""Seconds that a node has to list its models."""


def complete_model(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names that begin with what was typed; [] if neither node nor file has any."""
    url, file = context.params.get("url"), context.params.get("file")
    names = _names_of_node(url, file) or _names_of_file(file)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_folder(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names of models in the models folder that begin with what was typed."""
    from mlx_worker.cli.removal import names_in

    try:
        folder = models_folder(context.params.get("models_dir"), context.params.get("file"))
        names = names_in(folder)
    except (OSError, WorkerError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names_of_node(url: str | None, file: Path | None) -> list[str]:
    from mlx_worker.cli.client.model_names import model_names

    async def asked() -> list[str]:
        async with asyncio.timeout(TIMEOUT):
            return await model_names(node_meant(url, file))

    try:
        return asyncio.run(asked())
    except (OSError, TimeoutError, WorkerError):
        return []


def _names_of_file(file: Path | None) -> list[str]:

    try:
        models = configuration(file).models
    except (OSError, WorkerError):
        return []
    return [name for model in models for name in (model.id, *model.aliases)]


a_model = click.argument("model", shell_complete=complete_model)
maybe_a_model = click.argument("model", required=False, shell_complete=complete_model)
a_folder = click.argument("model", shell_complete=complete_folder)
model_option = functools.partial(
    click.option, "--model", metavar="MODEL", shell_complete=complete_model
)
