"""Options that several commands share, and the node that they select.

[front]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mlx_worker.config.load import default_file, load_config
from mlx_worker.config.schema import FILE_NAME, KEY_VARIABLE, Config

if TYPE_CHECKING:
    from mlx_worker.cli.client import NodeClient

A_PATH: Final = click.Path(path_type=Path)

models_dir = click.option("--models-dir", type=A_PATH, help="Folder in which models are kept.")
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


def node_meant(url: str | None, file: Path | None) -> NodeClient:
    """Return the node at `url`, else the node at the address of the configuration."""
    from mlx_worker.cli.client import NodeClient

    return NodeClient.at(url) if url else NodeClient.of(configuration(file).server)
