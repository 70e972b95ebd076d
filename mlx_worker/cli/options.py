"""Options that several commands share, and the node that they select.

[front]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mlx_worker.config.load import default_file, find_default_file, load_config
from mlx_worker.config.schema import FILE_NAME, KEY_VARIABLE, Config

if TYPE_CHECKING:
    from mlx_worker.cli.client import NodeClient

A_PATH: Final = click.Path(path_type=Path)

models_dir = click.option(
    "--models-dir",
    type=A_PATH,
    help="Folder in which models are kept. Default: the configuration's, else $MLX_WORKER_MODELS,"
    " else the user's data folder.",
)
config_file = click.option(
    "--config",
    "-c",
    "file",
    type=A_PATH,
    help=f"Configuration file. Default: ./{FILE_NAME}, else that of the user's config folder.",
)
node_url = click.option(
    "--url",
    help="Base URL of the node. Default: the address of the configuration. "
    f"The API key is taken from ${KEY_VARIABLE}, else from the configuration.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def configuration(file: Path | None) -> Config:
    """Return the configuration that `serve` would read."""
    return load_config(file or default_file())


def configuration_if_any(file: Path | None) -> Config | None:
    """Return the same configuration; None if no file is named and no default file exists."""
    named = file or find_default_file()
    return None if named is None else load_config(named)


def models_folder(named: Path | None, file: Path | None) -> Path:
    """Return the folder in which models are kept: `named`, else that of `serve`."""
    from mlx_worker.models.resolve import models_dir_of

    return named or models_dir_of(configuration_if_any(file))


def node_meant(url: str | None, file: Path | None) -> NodeClient:
    """Return the node at `url`, else the node at the address of the configuration."""
    from mlx_worker.cli.client import NodeClient

    return NodeClient.at(url) if url else NodeClient.of(configuration(file).server)
