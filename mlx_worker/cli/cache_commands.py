"""The commands about the KV on disk, of a node that runs and of a folder at rest.

This module is imported with every command, so a function imports what it alone needs. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_worker.cli.model_arguments import maybe_a_model
from mlx_worker.cli.options import (
    A_PATH,
    as_json,
    config_file,
    configuration_if_any,
    node_meant,
    node_url,
)
from mlx_worker.errors import ModelInUse, NodeUnreachable, StorageError, cause_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlx_worker.kv_disk.resting import IdentityOnDisk

WRONG_RECORDS: Final = 65
"""Exit code of `verify` where a record was not right."""

kv_folder_option = click.option(
    "--path",
    type=A_PATH,
    help="Folder of the KV on disk, without a node. Default: the node's, else the configuration's.",
)


@click.group
def cache() -> None:
    """List, verify and clear the KV on disk."""


@cache.command
@as_json
@kv_folder_option
@config_file
@node_url
def ls(*, as_json: bool, path: Path | None, file: Path | None, url: str | None) -> None:
    """List what is kept on disk, by model.

    A model has a line for each identity: its weights, its settings and the versions of MLX. Without
    a running node, the folder itself is read.
    """
    from mlx_worker.cli.reports.kv_on_disk import contents_listing
    from mlx_worker.cli.reports.output import print_json, print_lines, terminal_width

    contents = asyncio.run(_contents(path, file, url))
    if as_json:
        print_json(contents)
    elif contents["path"] is None:
        click.echo(f"no KV on disk: {contents['off']}")
    elif not contents["stored"]:
        click.echo(f"nothing in {contents['path']}")
    else:
        print_lines(*contents_listing(contents["stored"]).lines(terminal_width()))


async def _contents(path: Path | None, file: Path | None, url: str | None) -> dict[str, Any]:
    """Return what `GET /cache/disk` says, or would say of a folder at rest."""
    if path is None:
        try:
            found: dict[str, Any] = await node_meant(url, file).get("/cache/disk")
        except NodeUnreachable:
            if url is not None:
                raise
        else:
            return found
    folder = path or _configured_folder(file)
    return {"path": str(folder), "off": "", "stored": [_as_json(kv) for kv in _stored(folder)]}


@cache.command
@maybe_a_model
@as_json
@kv_folder_option
@config_file
def verify(*, model: str | None, as_json: bool, path: Path | None, file: Path | None) -> None:
    """Read every record on disk and delete those that are damaged.

    MODEL is a model's id, or the first 8 or more characters of an identity. The folder is that of
    this machine, also while a node runs: a damaged record of a model that is loaded is reported,
    and deleted by the node when the node reads it. The exit code is 65 if a record was damaged.
    """
    from mlx_worker.cli.reports.kv_on_disk import verified_in_words
    from mlx_worker.cli.reports.output import print_json
    from mlx_worker.kv_disk import resting

    folder = path or _configured_folder(file)
    found = []
    for kv in _meant(folder, model):
        with _disk(folder):
            verified = resting.verify(folder, kv.identity)
        found.append(
            {
                "identity": verified.identity,
                "models": list(verified.models),
                "right": verified.right,
                "wrong": verified.wrong,
                "deleted": verified.deleted,
                "unreadableBytes": verified.unreadable_bytes,
            }
        )
        if not as_json:
            click.echo(verified_in_words(found[-1]))
    if as_json:
        print_json({"path": str(folder), "verified": found})
    elif not found:
        click.echo(f"nothing in {folder}")
    if any(entry["wrong"] or entry["unreadableBytes"] for entry in found):
        sys.exit(WRONG_RECORDS)


@cache.command
@maybe_a_model
@as_json
@kv_folder_option
@config_file
@node_url
def clear(
    *, model: str | None, as_json: bool, path: Path | None, file: Path | None, url: str | None
) -> None:
    """Clear the prompt caches of models, in memory and on disk.

    Without a running node, MODEL is a model's id, or the first 8 or more characters of an identity,
    and the folder itself is cleared.
    """
    from mlx_worker.cli.reports.output import print_json

    cleared = asyncio.run(_cleared(model, path, file, url))
    if as_json:
        print_json({"cleared": cleared})
    else:
        click.echo(f"cleared: {', '.join(cleared) or 'nothing'}")


async def _cleared(
    model: str | None, path: Path | None, file: Path | None, url: str | None
) -> list[str]:
    """Return the ids of the models, or the identities without one, that were cleared."""
    from mlx_worker.cli.client.model_names import check_name

    if path is None:
        node = node_meant(url, file)
        try:
            await check_name(node, model)
            return await node.clear(model)
        except NodeUnreachable:
            if url is not None:
                raise
    folder = path or _configured_folder(file)
    return await asyncio.to_thread(_clear_at_rest, folder, model)


def _clear_at_rest(folder: Path, model: str | None) -> list[str]:
    from mlx_worker.kv_disk import resting

    meant = _meant(folder, model)
    if not meant:
        return []
    with _disk(folder), _no_node(folder):
        for kv in meant:
            if not resting.clear(folder, kv.identity):
                raise ModelInUse(f"a process of a node that has ended still uses {folder}")
    return list(dict.fromkeys(kv.models[0] if kv.models else kv.identity for kv in meant))


@contextlib.contextmanager
def _no_node(folder: Path) -> Iterator[None]:
    """Keep nodes from the folder. Raises ModelInUse if a node uses the folder."""
    from mlx_worker.kv_disk.files.folder import lock, open_root

    with contextlib.ExitStack() as stack:
        root = open_root(folder, create=False)
        stack.callback(os.close, root)
        try:
            stack.callback(os.close, lock(root, "node"))
        except StorageError:
            raise ModelInUse(
                f"a node uses {folder}: name the node with --url or --config, or stop the node"
            ) from None
        yield


def _configured_folder(file: Path | None) -> Path:
    from mlx_worker.config.schema import CacheConfig
    from mlx_worker.kv_disk.place import kv_folder

    config = configuration_if_any(file)
    return kv_folder(config.cache if config else CacheConfig())


def _stored(folder: Path) -> list[IdentityOnDisk]:
    from mlx_worker.kv_disk.resting import list_stored

    with _disk(folder):
        return list_stored(folder)


def _meant(folder: Path, name: str | None) -> list[IdentityOnDisk]:
    """Return what has this name; without a name, everything. Raises UnknownModel."""
    from mlx_worker.cli.client.model_names import unknown_among

    stored = _stored(folder)
    meant = [kv for kv in stored if name is None or kv.is_meant(name)]
    if name is not None and not meant:
        names = dict.fromkeys(known for kv in stored for known in kv.models or (kv.identity,))
        raise unknown_among(f"the folder {folder}", name, list(names))
    return meant


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{folder}: {cause_of(error)}") from error


def _as_json(kv: IdentityOnDisk) -> dict[str, Any]:
    """Return an entry as `GET /cache/disk` has it."""
    return {
        "identity": kv.identity,
        "models": list(kv.models),
        "records": kv.records,
        "tokens": kv.tokens,
        "bytes": kv.nbytes,
        "lastUsed": kv.last_used * 1000,
    }
