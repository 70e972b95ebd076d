"""Options that several commands share, and the node that they select.

[front]
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_worker.config.load import default_file, find_default_file, load_config
from mlx_worker.config.schema import FILE_NAME, KEY_VARIABLE, Config
from mlx_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.cli.client import NodeClient

    Command = Callable[..., None]


def _full_url(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Return the URL in full. Raises BadParameter."""
    return None if text is None else read_node_url(context, parameter, text)


def read_node_url(context: click.Context, parameter: click.Parameter, text: str) -> str:
    """Return the base URL that a user means. Raises BadParameter, which is wrong usage."""
    from mlx_worker.cli.client import read_url

    try:
        return read_url(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


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
    metavar="URL",
    callback=_full_url,
    help="Base URL of the node, or HOST:PORT. Default: the address of the configuration, else of"
    f" its defaults. The API key is taken from ${KEY_VARIABLE}, else from the configuration.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def on_node(function: Command) -> Command:
    """Give a command the options that select a node, and pass the node to it as `node`."""

    @config_file
    @node_url
    @functools.wraps(function)
    def command(*args: Any, file: Path | None, url: str | None, **options: Any) -> None:
        function(*args, node=node_meant(url, file), **options)

    return command


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
    """Return the node at `url`, else at the address of the configuration, else at the default one.

    A configuration that is named beside a URL has the key and the certificate of that node.
    """
    from mlx_worker.cli.client import DEFAULT_URL, NodeClient

    if url is not None and file is None:
        return NodeClient.at(url)
    try:
        found = file or default_file()
    except ConfigError as error:
        return NodeClient.at(DEFAULT_URL, advice=f"{error}, or the node with --url")
    advice = "" if url else "`mlx-worker serve` starts the node"
    return NodeClient.of(load_config(found).server, url, advice=advice)
