"""Options that several commands share, and the node that they mean. [front]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_worker.config import FILE_NAME, KEY_VARIABLE, Config, default_file, load_config

if TYPE_CHECKING:
    from mlx_worker.control import RemoteNode

ModelsDir = Annotated[
    Path | None, typer.Option("--models-dir", help="Where models are kept.", show_default=False)
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help=f"Default: ./{FILE_NAME}, else the one in the user's config folder.",
        show_default=False,
    ),
]
NodeUrl = Annotated[
    str | None,
    typer.Option(
        help="The node's base URL. Default: what the configuration listens on. "
        f"Its key is taken from ${KEY_VARIABLE}, else from the configuration.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def configuration(file: Path | None) -> Config:
    """The configuration that `serve` would read."""
    return load_config(file or default_file())


def node_meant(url: str | None, config: Path | None) -> RemoteNode:
    """The node at `url`, else where the configuration listens."""
    from mlx_worker.control import RemoteNode

    return RemoteNode.at(url) if url else RemoteNode.of(configuration(config).server)
