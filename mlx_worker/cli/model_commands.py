"""The commands that change what a node runs and keeps: processes, requests, caches, folders.

This module is imported with every command, so a function imports what it alone needs. [front]
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import IO, TYPE_CHECKING, Any

import click

from mlx_worker.cli.model_arguments import a_folder, a_model, model_option
from mlx_worker.cli.options import (
    as_json,
    config_file,
    configuration_if_any,
    models_dir,
    models_folder,
    node_meant,
    on_node,
)
from mlx_worker.system.text_files import decode_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mlx_worker.cli.client import NodeClient

# --- processes --------------------------------------------------------------------------


def _waiting(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options to wait for what it asked for."""

    @click.option("--wait", is_flag=True, help="End when the node has done it; 1 if it failed.")
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds that --wait may take, then the exit code is 75. Default: no limit.",
    )
    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> None:
        function(*args, **options)

    return command


@click.command
@a_model
@_waiting
@on_node
def restart(**options: Any) -> None:
    """Restart a model in a new process.

    This also starts a model that was given up.
    """
    _act("restart", "is being restarted", **options)


@click.command
@a_model
@_waiting
@on_node
def load(**options: Any) -> None:
    """Load a model.

    This also starts a model that was given up. A model that is loaded stays as it is.
    """
    _act("load", "is being loaded", **options)


@click.command
@a_model
@_waiting
@on_node
def unload(**options: Any) -> None:
    """Unload a model until a request needs it.

    A model that is busy is not unloaded: the exit code is 75.
    """
    _act("unload", "is being unloaded", **options)


def _act(
    verb: str, what: str, *, model: str, wait: bool, timeout: float | None, node: NodeClient
) -> None:
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is the limit of --wait")
    asyncio.run(_acted(node, model, verb, what, wait=wait, limit=timeout))


async def _acted(
    node: NodeClient, model: str, verb: str, what: str, *, wait: bool, limit: float | None
) -> None:
    from mlx_worker.cli.client.model_names import check_name
    from mlx_worker.cli.client.waiting import act_and_wait

    await check_name(node, model)
    if wait:
        await act_and_wait(node, model, verb, limit=limit, on_state=_print_state)
        return
    await node.act(model, verb)
    click.echo(f"{model} {what}; `mlx-worker status` shows the progress")


def _print_state(id_: str, report: Mapping[str, Any]) -> None:
    from mlx_worker.cli.reports.status import state_in_words

    reason = f" ({report['reason']})" if report["reason"] else ""
    click.echo(f"{id_} is {state_in_words(report)}{reason}")


@click.command
@as_json
@on_node
def reload(*, as_json: bool, node: NodeClient) -> None:
    """Reload the configuration of the node.

    Models that did not change are not interrupted.
    """
    from mlx_worker.cli.reports.output import print_json

    changes = asyncio.run(node.reload())
    if as_json:
        print_json(changes)
        return
    for what, names in changes.items():
        if names:
            click.echo(f"{what.replace('_', ' ')}: {', '.join(names)}")
    if not any(changes.values()):
        click.echo(
            "no model has changed; API keys, trusted addresses and certificate were read again"
        )


# --- requests ---------------------------------------------------------------------------


@click.command
@click.argument("request_id", metavar="REQUEST_ID")
@on_node
def cancel(*, request_id: str, node: NodeClient) -> None:
    """Cancel a generation request that runs or waits.

    REQUEST_ID is its id in the page's table of requests, in `GET /admin/requests` and in the log.
    The client of the request gets the error `cancelled_by_operator`. If no such request runs or
    waits, the exit code is 66.
    """
    asyncio.run(node.cancel(request_id))
    click.echo(f"{request_id} is cancelled")


# --- caches -----------------------------------------------------------------------------


@click.command
@click.argument("prompt", metavar="FILE", type=click.File("rb"))
@model_option(help="Model's name or alias. Default: the default model.")
@as_json
@on_node
def warm(*, prompt: IO[bytes], model: str | None, as_json: bool, node: NodeClient) -> None:
    """Put the system prompt in FILE into the prompt cache.

    Requests with this system prompt then start at once. FILE may be -, which is standard input.
    """
    from mlx_worker.cli.reports.output import print_json

    try:
        text = decode_text(prompt.read())
    except ValueError as error:
        raise click.BadParameter(f"{prompt.name} cannot be read: {error}") from error
    if not text.strip():
        raise click.BadParameter(f"{prompt.name} has no text in it")
    warmed = asyncio.run(_warmed(node, text, model))
    if as_json:
        print_json(warmed)
    else:
        click.echo(f"{warmed['model']}: {warmed['tokens']} tokens, {warmed['systemPromptHash']}")


async def _warmed(node: NodeClient, text: str, model: str | None) -> dict[str, Any]:
    from mlx_worker.cli.client.model_names import check_name

    await check_name(node, model)
    return await node.warm(text, model)


# --- folders ----------------------------------------------------------------------------


@click.command
@a_folder
@click.option("--yes", "-y", is_flag=True, help="Remove without a question.")
@models_dir
@config_file
def rm(*, model: str, yes: bool, models_dir: Path | None, file: Path | None) -> None:
    """Remove a pulled model from the models folder.

    MODEL is the name of its folder. A model of the configuration, or one that the node has loaded,
    is not removed: the exit code is 75. It is 1 if the question is answered with no.
    """
    from mlx_worker.cli.removal import (
        folder_named,
        refuse_if_configured,
        refuse_if_loaded,
        remove,
        size_of,
    )
    from mlx_worker.config.sizes import in_words

    try:
        folder = folder_named(models_folder(models_dir, file), model)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if (config := configuration_if_any(file)) is not None:
        refuse_if_configured(folder, config)
    asyncio.run(refuse_if_loaded(folder, node_meant(None, file)))
    size = in_words(size_of(folder))
    if not (yes or click.confirm(f"Remove {folder}, {size}?", err=True)):
        click.echo("nothing was removed", err=True)
        sys.exit(1)
    remove(folder)
    click.echo(f"{folder} is removed, {size}")


MODEL_COMMANDS = (restart, load, unload, reload, cancel, warm, rm)
