"""The operator's commands, as the command line has them.

Imported with every command, so what one of them alone needs it imports itself. [front]
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import IO, TYPE_CHECKING, Any

import click

from mlx_worker.cli.client_blocks import CLIENTS
from mlx_worker.cli.options import as_json, config_file, node_meant, node_url
from mlx_worker.cli.router_config import Router, written
from mlx_worker.system.text_files import decode_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from mlx_worker.cli.client import NodeClient


# --- looking ------------------------------------------------------------------------------


@click.command
@as_json
@config_file
@node_url
def status(*, as_json: bool, file: Path | None, url: str | None) -> None:
    """Show how the running node is; the exit code says it too.

    0 healthy, 3 degraded, 4 unhealthy, 5 initializing, 6 going down, 69 out of reach, 77 wrong key.
    """
    from mlx_worker.cli.status import EXIT_CODES, overview

    node = node_meant(url, file)
    body = asyncio.run(node.health())
    if as_json:
        _print_json(body)
    else:
        _print(overview(node.url, body))
    sys.exit(EXIT_CODES[body["status"]])


@click.command
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("-n", "looks", type=click.IntRange(min=1), help="Number of updates; then end.")
@config_file
@node_url
def top(*, every: float, looks: int | None, file: Path | None, url: str | None) -> None:
    """Show the running node live, with tokens per second, until ctrl-C."""
    from rich.console import Console

    from mlx_worker.cli.top import watch

    asyncio.run(watch(node_meant(url, file), every, Console(), looks))


@click.command
@as_json
@config_file
@node_url
def models(*, as_json: bool, file: Path | None, url: str | None) -> None:
    """List the models of the running node."""
    from mlx_worker.cli.models_table import table_of

    listed = asyncio.run(node_meant(url, file).get("/v1/models"))
    if as_json:
        _print_json(listed)
    else:
        _print(table_of(listed["data"]))


@click.command
@click.argument("model", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with lines as they are written.")
@config_file
@node_url
def logs(*, model: str | None, follow: bool, file: Path | None, url: str | None) -> None:
    """Print the running node's log lines, of all models or of one, by name or alias."""
    asyncio.run(_print_lines(node_meant(url, file), model, follow=follow))


async def _print_lines(node: NodeClient, model: str | None, *, follow: bool) -> None:
    from mlx_worker.cli.logs import following, last_lines

    if follow:
        async for line in following(node, model):
            click.echo(line)
    else:
        for line in await last_lines(node, model):
            click.echo(line)


# --- commanding ---------------------------------------------------------------------------


@click.command
@click.argument("model")
@config_file
@node_url
def restart(*, model: str, file: Path | None, url: str | None) -> None:
    """Give a model of the running node a new process, also one that was given up."""
    _act(node_meant(url, file), model, "restart", "gets a new process")


@click.command
@click.argument("model")
@config_file
@node_url
def load(*, model: str, file: Path | None, url: str | None) -> None:
    """Have the running node load a model, also one that was given up."""
    _act(node_meant(url, file), model, "load", "is loaded")


@click.command
@click.argument("model")
@config_file
@node_url
def unload(*, model: str, file: Path | None, url: str | None) -> None:
    """Have the running node end a model's process until it is needed; not while it is at work."""
    _act(node_meant(url, file), model, "unload", "leaves memory")


def _act(node: NodeClient, model: str, verb: str, what: str) -> None:
    asyncio.run(node.act(model, verb))
    click.echo(f"{model} {what}; `mlx-worker status` tells how it goes")


@click.command
@config_file
@node_url
def reload(*, file: Path | None, url: str | None) -> None:
    """Have the running node read its configuration again; models that did not change go on."""
    for what, names in asyncio.run(node_meant(url, file).reload()).items():
        if names:
            click.echo(f"{what.replace('_', ' ')}: {', '.join(names)}")


@click.command
@click.argument("prompt", metavar="FILE", type=click.File("rb"))
@click.option("--model", help="Default: the default model.")
@config_file
@node_url
def warm(*, prompt: IO[bytes], model: str | None, file: Path | None, url: str | None) -> None:
    """Have the system prompt in FILE prefilled and kept, so that requests with it start at once.

    - is standard input.
    """
    try:
        text = decode_text(prompt.read())
    except ValueError as error:
        raise click.BadParameter(f"{prompt.name} cannot be read: {error}") from error
    warmed = asyncio.run(node_meant(url, file).warm(text, model))
    click.echo(f"{warmed['model']}: {warmed['tokens']} tokens, {warmed['systemPromptHash']}")


@click.command
@click.argument("model", required=False)
@config_file
@node_url
def clear(*, model: str | None, file: Path | None, url: str | None) -> None:
    """Have cached prompts forgotten, of all models or of one, by name or alias."""
    cleared = asyncio.run(node_meant(url, file).clear(model))
    click.echo(f"cleared: {', '.join(cleared)}")


# --- talking ------------------------------------------------------------------------------


@click.command
@click.argument("model", required=False)
@click.option("--system", help="The system prompt.")
@click.option("--temperature", type=float, help="Default: the model's.")
@click.option("--max-tokens", type=int, help="Default: the model's.")
@click.option("--seed", type=int, help="Default: a new one.")
@click.option("--stats", is_flag=True, help="Say what each answer took.")
@config_file
@node_url
def chat(
    *,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    stats: bool,
    file: Path | None,
    url: str | None,
) -> None:
    """Talk to a model in the terminal: ctrl-C cancels an answer, /quit leaves."""
    from mlx_worker.cli.chat import Conversation, converse

    asked = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    settings = {key: value for key, value in asked.items() if value is not None}
    conversation = Conversation(node_meant(url, file), settings, _say)
    if system is not None:
        conversation.turns.append({"role": "system", "content": system})
    converse(conversation, stats=stats)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


# --- the machine and its neighbours -------------------------------------------------------


@click.command
@config_file
def doctor(*, file: Path | None) -> None:
    """Look this machine over: what a node needs, and what to do where it is not there.

    Ends with 1 where something is bad.
    """
    from mlx_worker.cli.doctor.report import examine, table_of

    findings = asyncio.run(examine(file))
    _print(table_of(findings))
    sys.exit(1 if any(finding.severity == "bad" for finding in findings) else 0)


@click.command("router-config")
@click.argument("nodes", nargs=-1)
@click.option(
    "--for",
    "reader",
    type=click.Choice([item.value for item in Router]),
    default=Router.JSON.value,
    show_default=True,
    help="Program that reads the list.",
)
@config_file
def router_config(*, nodes: tuple[str, ...], reader: str, file: Path | None) -> None:
    """Print the list of NODES as a router or proxy in front of them reads it.

    They are base URLs. Default: what the configuration listens on.
    """
    from mlx_worker.cli.client import NodeClient

    remotes = [NodeClient.at(node) for node in nodes] or [node_meant(None, file)]
    click.echo(asyncio.run(written(remotes, Router(reader))), nl=False)


@click.command("client-config")
@click.argument("client", type=click.Choice(tuple(CLIENTS)))
@click.option("--model", help="A model's name or alias. Default: the first that the node lists.")
@config_file
@node_url
def client_config(*, client: str, model: str | None, file: Path | None, url: str | None) -> None:
    """Print the settings with which CLIENT uses the running node.

    The settings name the variable of the node's key, never the key. A line on stderr says where
    the settings belong.
    """
    from mlx_worker.cli.client_config import target_of

    chosen = CLIENTS[client]
    target = asyncio.run(target_of(node_meant(url, file), model))
    click.echo(chosen.write(target), nl=False)
    click.echo(f"{chosen.title}: {chosen.place}", err=True)


def _print(table: RenderableType) -> None:
    from rich.console import Console

    Console().print(table)


def _print_json(body: Any) -> None:
    click.echo(json.dumps(body, indent=2))


COMMANDS = (
    status,
    top,
    models,
    logs,
    restart,
    load,
    unload,
    reload,
    warm,
    clear,
    chat,
    doctor,
    router_config,
    client_config,
)
